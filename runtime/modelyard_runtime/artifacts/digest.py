"""The digest of an artifact: what `spec.model.digest` is compared with, and where a version comes from.

A single file (an archive too, as it is fetched): the sha256 of its bytes, as `sha256sum FILE` prints it.

A folder: the sha256 of the text that lists its files, a line `<sha256>  <relative path>` each, sorted by path,
bytewise:

    cd FOLDER && find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

from modelyard_runtime.errors import DigestMismatch

__all__ = ["check_digest", "default_version", "digest_of_files", "digest_of_hex"]

_FORM = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of_hex(sha256: str) -> str:
    """Return `sha256:<hex>` for the lower-case hex sha256 of a single file."""
    return f"sha256:{sha256}"


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return the digest of a folder; `files` maps each relative path (`/` between parts) to its hex sha256."""
    listing = hashlib.sha256()
    for path in sorted(files, key=os.fsencode):
        listing.update(files[path].encode() + b"  " + os.fsencode(path) + b"\n")
    return digest_of_hex(listing.hexdigest())


def check_digest(actual: str, wanted: str | None, uri: str) -> None:
    """Compare digests; `wanted` empty or None: anything goes. Raises DigestMismatch, showing both."""
    if not wanted:
        return
    if not _FORM.fullmatch(wanted):
        raise DigestMismatch(f"the digest {wanted!r} is not of the form sha256:<64 lower-case hex digits>; correct it")
    if actual != wanted:
        raise DigestMismatch(
            f"{uri} has the digest {actual}, and {wanted} was asked for: "
            "restore the artifact, or set spec.model.digest to the new digest if the change was meant"
        )


def default_version(digest: str) -> str:
    """Return the version of an artifact that was given none: the first 12 hex digits of its digest."""
    return digest.removeprefix("sha256:")[:12]
