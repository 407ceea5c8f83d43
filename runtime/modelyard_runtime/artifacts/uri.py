"""URIs of artifacts, parsed by the contract's URI_FORMS: everything is refused that could mean another place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from modelyard_runtime.contract import URI_FORMS
from modelyard_runtime.errors import LoadFailed

__all__ = ["ArtifactURI", "parse_uri"]

_USER = re.compile(r"(\w+)://[^/?#]*:[^/?#]*@|https://[^/?#]*@")


@dataclass(frozen=True)
class ArtifactURI:
    """A URI of one of the URI_FORMS, and its parts."""

    text: str
    scheme: str
    host: str
    """The claim, host, bucket, container or registry (with its port); of hf, ORG/REPO; of file, empty."""
    path: PurePosixPath
    """Percent-decoded; absolute for file and https, below `host` for the others. Of oci, the repository."""
    revision: str = ""
    """Of hf, the revision, percent-decoded; of oci, the digest or else the tag."""

    @property
    def name(self) -> str:
        """The file name that the URI ends with, or `model`."""
        return self.path.name or "model"


def parse_uri(text: str) -> ArtifactURI:
    """Parse a URI. Raises LoadFailed with the form that works."""
    scheme, separator, _ = text.partition("://")
    if _USER.match(text):
        raise LoadFailed(f"the {scheme} uri holds a user or password, which everyone could read; take it out")
    if not separator or scheme not in URI_FORMS:
        raise LoadFailed(
            f"the scheme of {text!r} is not supported; give {', '.join(form.shown for form in URI_FORMS.values())}"
        )
    form = URI_FORMS[scheme]
    shown = text.partition("?")[0] if scheme == "https" else text  # a query can be a signature
    found = re.fullmatch(form.pattern, text)
    if found is None:
        raise LoadFailed(f"the uri {shown!r} is not of the form {form.shown}: {form.rule}")
    parts = {"host": "", "path": "", "revision": "", **{k: v for k, v in found.groupdict().items() if v is not None}}
    path = unquote(parts["path"])
    revision = unquote(parts["revision"])
    for part in "/".join((parts["host"], path, revision)).split("/"):
        if part in (".", "..") or "\\" in part or any(ord(char) < 32 for char in part):
            raise LoadFailed(
                f"the uri {shown!r} has '.', '..', a backslash or a control character in a part of it; write it plainly"
            )
    absolute = "/" if scheme in ("file", "https") else ""
    return ArtifactURI(
        text,
        scheme,
        parts["host"],
        PurePosixPath(absolute + path.strip("/")),
        parts.get("digest") or parts.get("tag") or revision,
    )
