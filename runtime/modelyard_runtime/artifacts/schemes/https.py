"""https:// -- one file: streamed, retried with backoff, resumed, never over plain http, certificates always checked."""

from __future__ import annotations

from pathlib import Path

from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.transfer import Incoming, Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI
from modelyard_runtime.artifacts.web import Web, shown
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed

__all__ = ["fetch"]


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Download the file at `uri` into the folder `target`.

    Certificates are checked against the system's authorities, or SSL_CERT_FILE. Server errors, timeouts and broken
    connections are retried; what has arrived is kept where the server takes ranges and names a version of the file
    (ETag, Last-Modified). Raises ArtifactNotFound (404, 410), AccessDenied (401, 403, an untrusted certificate),
    LoadFailed (over the budget, or no success after the last attempt).
    """
    where = shown(uri.text)
    with Incoming(target / uri.name, transfer, where) as incoming:
        status = Web(transfer).download(uri.text, incoming).status
        if status in (404, 410):
            raise ArtifactNotFound(
                f"{where} answers {status}: nothing is there; check the uri and that it was uploaded"
            )
        if status in (401, 403):
            raise AccessDenied(f"{where} answers {status}: reading it is not allowed; make it readable from here")
        if status not in (200, 206):
            raise LoadFailed(f"{where} answers {status}; check the uri")
        return Copied({uri.name: incoming.sha256}, incoming.size, single=True)
