"""URIs of artifacts: parsed once, with everything refused that could mean another place than it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from modelyard_runtime.contract import SCHEMES
from modelyard_runtime.errors import LoadFailed

__all__ = ["ArtifactURI", "parse_uri"]

_EXAMPLES = "file:///models/churn, pvc://CLAIM/models/churn or https://host/churn.tar.gz"


@dataclass(frozen=True)
class ArtifactURI:
    """A URI that was found in order."""

    text: str
    scheme: str
    host: str
    """Of https, the host; of pvc, the claim; of file, empty."""
    path: PurePosixPath
    """Percent-decoded; absolute for file and https, below the claim for pvc."""

    @property
    def name(self) -> str:
        """The file name that the URI ends with, or `model`."""
        return self.path.name or "model"


def parse_uri(text: str) -> ArtifactURI:
    """Parse a URI. Raises LoadFailed with the forms that work."""
    try:
        parts = urlsplit(text)
        host, secret = parts.hostname or "", parts.username or parts.password
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
    if parts.scheme == "https" and not (text.isascii() and text.isprintable() and " " not in text):
        raise LoadFailed(f"the uri {text!r} has spaces or other characters that need percent-encoding; encode them")
    if parts.scheme == "file" and not decoded.strip("/"):
        raise LoadFailed(f"the uri {text!r} needs the path of a file or folder: file:///models/churn")
    if parts.scheme == "file":
        if host not in ("", "localhost") or not decoded.startswith("/"):
            raise LoadFailed(f"the uri {text!r} needs an absolute path: file:///models/churn")
        return ArtifactURI(text, "file", "", PurePosixPath("/" + decoded.strip("/")))
    if not host:
        raise LoadFailed(f"the uri {text!r} lacks a {'claim' if parts.scheme == 'pvc' else 'host'}; give {_EXAMPLES}")
    if parts.scheme == "pvc":
        return ArtifactURI(text, "pvc", host, PurePosixPath(decoded.strip("/")))
    return ArtifactURI(text, "https", host, PurePosixPath("/" + decoded.lstrip("/")))
