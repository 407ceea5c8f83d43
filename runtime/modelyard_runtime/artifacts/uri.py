"""URIs of artifacts: parsed once, with everything refused that could mean another place than it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from modelyard_runtime.contract import SCHEMES
from modelyard_runtime.errors import LoadFailed

__all__ = ["ArtifactURI", "parse_uri"]

_EXAMPLES = (
    "file:///models/churn, pvc://CLAIM/models/churn, https://host/churn.tar.gz, s3://BUCKET/churn/4, "
    "gs://BUCKET/churn/4, az://CONTAINER/churn/4, hf://ORG/REPO@REVISION or oci://REGISTRY/REPOSITORY:TAG"
)
_HOLDERS = {"pvc": "claim", "https": "host", "s3": "bucket", "gs": "bucket", "az": "container"}
_HF_FORM = "hf://ORG/REPO@REVISION or hf://ORG/REPO@REVISION/PATH (a revision's own / is written %2F)"
_OCI = re.compile(
    r"oci://([A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class ArtifactURI:
    """A URI that was found in order."""

    text: str
    scheme: str
    host: str
    """Of https, the host; of pvc, the claim; of s3 and gs, the bucket; of az, the container; of oci, the registry with
    its port; of hf, ORG/REPO; of file, empty."""
    path: PurePosixPath
    """Percent-decoded; absolute for file and https, below `host` for the others. Of oci, the repository."""
    revision: str = ""
    """Of hf, the revision; of oci, the digest or else the tag."""

    @property
    def name(self) -> str:
        """The file name that the URI ends with, or `model`."""
        return self.path.name or "model"


def parse_uri(text: str) -> ArtifactURI:
    """Parse a URI. Raises LoadFailed with the forms that work."""
    try:
        parts = urlsplit(text)
        host, secret = parts.hostname or "", parts.password or (parts.username if parts.scheme != "hf" else "")
        if parts.scheme in ("https", "oci"):
            _ = parts.port  # raises for one that is no number
    except ValueError:
        raise LoadFailed(f"the uri {text!r} can't be read; give {_EXAMPLES}") from None
    if parts.scheme not in SCHEMES:
        raise LoadFailed(f"the scheme of {text!r} is not supported; give {_EXAMPLES}")
    if secret:
        raise LoadFailed(f"the {parts.scheme} uri holds a user or password, which everyone could read; take it out")
    decoded = unquote(parts.path)
    if ".." in decoded.split("/") or "\0" in decoded or "\\" in decoded:
        raise LoadFailed(f"the uri {text!r} has '..', a backslash or a NUL in its path; write the plain path")
    if parts.scheme != "https" and (parts.query or parts.fragment or "?" in text or "#" in text):
        raise LoadFailed(f"the uri {text!r} has a ? or #; write them as %3F and %23 where they belong to the path")
    if parts.scheme in _HOLDERS and not host:
        raise LoadFailed(f"the uri {text!r} lacks a {_HOLDERS[parts.scheme]}; give {_EXAMPLES}")
    match parts.scheme:
        case "file":
            return _file(text, host, decoded)
        case "pvc":
            return ArtifactURI(text, "pvc", host, PurePosixPath(decoded.strip("/")))
        case "https":
            return _https(text, host, decoded)
        case "hf" | "oci":
            return _hf(text) if parts.scheme == "hf" else _oci(text)
        case scheme:
            return _object(text, scheme, parts.netloc, decoded)


def _file(text: str, host: str, decoded: str) -> ArtifactURI:
    if not decoded.strip("/"):
        raise LoadFailed(f"the uri {text!r} needs the path of a file or folder: file:///models/churn")
    if host not in ("", "localhost") or not decoded.startswith("/"):
        raise LoadFailed(f"the uri {text!r} needs an absolute path: file:///models/churn")
    return ArtifactURI(text, "file", "", PurePosixPath("/" + decoded.strip("/")))


def _https(text: str, host: str, decoded: str) -> ArtifactURI:
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise LoadFailed(f"the uri {text!r} has spaces or other characters that need percent-encoding; encode them")
    return ArtifactURI(text, "https", host, PurePosixPath("/" + decoded.lstrip("/")))


def _object(text: str, scheme: str, bucket: str, decoded: str) -> ArtifactURI:
    key = decoded.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}|\$(root|web)", bucket):
        raise LoadFailed(f"the uri {text!r} names no proper {_HOLDERS[scheme]}: {bucket!r}; correct it")
    if not key:
        raise LoadFailed(f"the uri {text!r} needs a key: a file or prefix, as in {scheme}://{bucket}/churn/4")
    if any(part in ("", ".") for part in key.split("/")) or any(ord(char) < 32 for char in key):
        raise LoadFailed(
            f"the uri {text!r} has an empty part, '.' or a control character in its key; write the plain key"
        )
    return ArtifactURI(text, scheme, bucket, PurePosixPath(key))


def _hf(text: str) -> ArtifactURI:
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)@([^/@]+)(?:/(.*))?", text, re.ASCII | re.DOTALL)
    revision = unquote(found.group(2)) if found else ""
    if not found or not re.fullmatch(r"[\w./-]+", revision, re.ASCII) or ".." in revision:
        raise LoadFailed(f"the uri {text!r} needs the form {_HF_FORM}; `main` is the newest revision")
    path = unquote(found.group(3) or "").strip("/")
    return ArtifactURI(text, "hf", found.group(1), PurePosixPath(path), revision)


def _oci(text: str) -> ArtifactURI:
    found = _OCI.fullmatch(text)
    if not found or not (found.group(3) or found.group(4)):
        raise LoadFailed(
            f"the uri {text!r} needs the form oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST"
        )
    registry, repository, tag, digest = found.groups()
    return ArtifactURI(text, "oci", registry, PurePosixPath(repository), digest or tag)
