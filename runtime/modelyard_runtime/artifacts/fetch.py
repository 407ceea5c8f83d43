"""Fetch an artifact into a folder: copy or download, verify, unpack, find the format, and only then show it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from modelyard_runtime.artifacts.copy import Budget
from modelyard_runtime.artifacts.digest import check_digest, default_version, digest_of_files, digest_of_hex
from modelyard_runtime.artifacts.layout import ARTIFACT_DIR, REPORT_FILE, write_report
from modelyard_runtime.artifacts.schemes import FETCHES
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.unpack import is_archive, unpack
from modelyard_runtime.artifacts.uri import ArtifactURI, parse_uri
from modelyard_runtime.contract import ANY_FORMAT, PVC_MOUNT, FetchReport
from modelyard_runtime.errors import AccessDenied, LoadFailed, StartupFailure
from modelyard_runtime.formats.detect import contents, detect, single_folder

__all__ = ["MAX_BYTES", "fetch"]

MAX_BYTES = 64 * 1024**3
_STAGING = ".incoming-"
_RECEIVED = "received"


def fetch(
    uri: str,
    directory: Path,
    *,
    digest: str | None = None,
    format: str | None = None,
    version: str | None = None,
    allow_pickle: bool = False,
    claim_root: Path = Path(PVC_MOUNT),
    max_bytes: int = MAX_BYTES,
    environ: Mapping[str, str] = os.environ,
) -> FetchReport:
    """Fetch the artifact at `uri` into `directory`/artifact, write `directory`/artifact.json, and return what it says.

    A second call gives the same result: the earlier files are replaced, and at no moment is there an artifact.json
    beside files that it does not describe. `digest` (sha256:<hex>) refuses another content; `format` skips finding
    it, and `any` takes files that another server reads; `version` defaults to the digest's first 12 hex digits;
    `claim_root` is where the claim of a pvc:// uri is mounted; `allow_pickle` takes formats that run code;
    `max_bytes` bounds what is fetched and, again, what is unpacked; `environ` holds credentials and endpoints
    (docs/storage.md). Raises a StartupFailure for whatever can go wrong.
    """
    parsed = parse_uri(uri)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
        try:
            transfer = Transfer(Budget.of(max_bytes), environ, claim_root)
            single, actual, size = _receive(parsed, staging / _RECEIVED, transfer)
            check_digest(actual, digest, uri)
            archive = _archive(staging / _RECEIVED, single, format)
            _unpack(staging, archive, max_bytes)
            if format != ANY_FORMAT:
                format = detect(staging / ARTIFACT_DIR, format or "", allow_pickle=allow_pickle).format
            report = FetchReport(
                uri=uri, digest=actual, format=format, version=version or default_version(actual), bytes=size
            )
            _replace(directory, staging)
            write_report(directory, report)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except StartupFailure:
        raise
    except OSError as exc:
        raise _disk_error(exc, directory) from None
    return report


def _receive(uri: ArtifactURI, target: Path, transfer: Transfer) -> tuple[str | None, str, int]:
    """Copy or download into the new folder `target`; return the name of a single file, the digest and the bytes."""
    target.mkdir()
    copied = FETCHES[uri.scheme](uri, target, transfer)
    if copied.single:
        name, sha256 = next(iter(copied.files.items()))
        return name, digest_of_hex(sha256), copied.bytes
    return None, digest_of_files(copied.files), copied.bytes


def _archive(received: Path, single: str | None, format: str | None) -> Path | None:
    """Return the archive to unpack: a single file, or the one that is all a folder holds (not for another server)."""
    if single is not None:
        return received / single if is_archive(single) else None
    if format == ANY_FORMAT:
        return None
    found = contents(single_folder(received))
    return found[0] if len(found) == 1 and is_archive(found[0].name) and found[0].is_file() else None


def _unpack(staging: Path, archive: Path | None, max_bytes: int) -> None:
    """Make `staging`/artifact: the unpacked archive, or all that was received."""
    artifact = staging / ARTIFACT_DIR
    if archive is not None:
        artifact.mkdir()
        unpack(archive, artifact, Budget.of(max_bytes))
    else:
        (staging / _RECEIVED).rename(artifact)


def _replace(directory: Path, staging: Path) -> None:
    """Put the new artifact in place: the report goes first, so that it never describes other files."""
    (directory / REPORT_FILE).unlink(missing_ok=True)
    old = directory / ARTIFACT_DIR
    if old.exists():
        old.rename(staging / "old")
    # mkdtemp made the staging folder private; the server may run as another user of the pod's group.
    (staging / ARTIFACT_DIR).chmod(0o755)
    (staging / ARTIFACT_DIR).rename(old)


def _disk_error(exc: OSError, directory: Path) -> StartupFailure:
    where = exc.filename or directory
    if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
        return AccessDenied(f"{where} may not be written by user {os.getuid()}; check the volume's permissions")
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoadFailed(f"{directory} has no room for the artifact; give the pod more ephemeral storage")
    return LoadFailed(f"{where}: {exc.strerror or exc}; check the volume")
