"""hf:// -- a repository of the Hugging Face Hub, or of a mirror that speaks its API (HF_ENDPOINT), at one commit.

Two routes of its public API are enough: `GET /api/models/REPO/revision/REV?blobs=true` names the commit and its files,
`GET /REPO/resolve/COMMIT/PATH` is a file. What is at a commit never changes, so a broken download always goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.paths import safe_path
from modelyard_runtime.artifacts.transfer import Incoming, Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI
from modelyard_runtime.artifacts.web import Web
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed

__all__ = ["fetch"]

_HUB = "https://huggingface.co"
_TOKEN = "give HF_TOKEN, a token that may read it, in the Secret of spec.model.credentials"  # noqa: S105 -- advice


@dataclass(frozen=True)
class _File:
    path: str
    size: int | None
    sha256: str
    """Of files in the large-file storage; empty for the others, which git names by another hash."""


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch the repository, or the file or folder of it that the URI names, into the folder `target`.

    Raises ArtifactNotFound, AccessDenied (private or gated), UnsafeArtifact for paths that lead out, LoadFailed over
    the budget or for a file that arrives damaged.
    """
    endpoint = (transfer.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    if not endpoint.lower().startswith(("https://", "http://")):
        raise LoadFailed("HF_ENDPOINT is no http(s) address; correct it, or leave it out for the Hugging Face Hub")
    token = transfer.environ.get("HF_TOKEN", "").strip()
    authorization = f"Bearer {token}" if token else ""
    web = Web(transfer)
    commit, files = _list(web, endpoint, uri, authorization)
    wanted, single = _chosen(files, uri)
    total = sum(file.size or 0 for file in wanted.values())
    if total > transfer.budget.left:
        transfer.budget.take(total)
    received: dict[str, str] = {}
    size = 0
    for name, file in wanted.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Incoming(path, transfer, f"hf://{uri.host}/{file.path}", file.size) as incoming:
            url = f"{endpoint}/{uri.host}/resolve/{commit}/{quote(file.path)}"
            answer = web.download(url, incoming, authorization=authorization, immutable=True)
            if answer.status not in (200, 206):
                _raise_for(answer.status, answer.headers, uri, token)
            _check(file, incoming, uri)
            received[name] = incoming.sha256
            size += incoming.size
    return Copied(received, size, single)


def _list(web: Web, endpoint: str, uri: ArtifactURI, authorization: str) -> tuple[str, list[_File]]:
    """Return the commit that the revision stands for, and its files."""
    url = f"{endpoint}/api/models/{uri.host}/revision/{quote(uri.revision, safe='')}?blobs=true"
    answer = web.read(url, {"Accept": "application/json"}, authorization=authorization)
    if answer.status != 200:
        _raise_for(answer.status, answer.headers, uri, authorization)
    try:
        told: dict[str, Any] = orjson.loads(answer.body)
        commit = quote(told["sha"], safe="")
        return commit, [_file(entry) for entry in told.get("siblings", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LoadFailed(f"{endpoint} does not answer as the Hugging Face Hub does; check HF_ENDPOINT") from None


def _file(entry: dict[str, Any]) -> _File:
    lfs = entry.get("lfs") or {}
    size = entry.get("size", lfs.get("size"))
    return _File(str(entry["rfilename"]), size if isinstance(size, int) else None, str(lfs.get("sha256", "")))


def _chosen(files: list[_File], uri: ArtifactURI) -> tuple[dict[str, _File], bool]:
    """Return the files that the URI names, by their path in the artifact, and whether it is a single file."""
    holder = f"hf://{uri.host}@{uri.revision}"
    path = "" if str(uri.path) == "." else str(uri.path)
    for file in files:
        if path and file.path == path:
            return {safe_path(holder, uri.name).as_posix(): file}, True
    below = f"{path}/" if path else ""
    chosen = {
        safe_path(holder, file.path.removeprefix(below), count).as_posix(): file
        for count, file in enumerate(sorted(files, key=lambda file: file.path))
        if file.path.startswith(below)
    }
    if not chosen:
        raise ArtifactNotFound(f"{holder} holds nothing at {path!r}; check the path and that it was uploaded")
    return chosen, False


def _check(file: _File, incoming: Incoming, uri: ArtifactURI) -> None:
    if (file.size is not None and incoming.size != file.size) or (file.sha256 and incoming.sha256 != file.sha256):
        raise LoadFailed(f"{file.path} of {uri.text} arrives damaged: it is not what the hub lists; try again")


def _raise_for(status: int, headers: Message, uri: ArtifactURI, token: str) -> None:
    code = headers.get("X-Error-Code", "")
    repository = f"the repository {uri.host}"
    if code == "GatedRepo":
        raise AccessDenied(f"{repository} is gated: accept its terms on the hub with the token's user, and {_TOKEN}")
    if code == "RevisionNotFound":
        raise ArtifactNotFound(f"{repository} has no revision {uri.revision!r}; check the uri, or write @main")
    if code == "RepoNotFound" or status in (404, 410):
        private = "the token may not read it" if token else f"it is private: then {_TOKEN}"
        raise ArtifactNotFound(f"{repository} or what {uri.text} names in it is not there; check the uri, or {private}")
    if status in (401, 403):
        refused = "the hub does not take HF_TOKEN for it: check the token" if token else _TOKEN
        raise AccessDenied(f"reading {repository} is not allowed ({status}); {refused}")
    raise LoadFailed(f"the hub answers {status} for {uri.text}; check the uri and HF_ENDPOINT")
