"""gs:// -- Google Cloud Storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard_runtime.artifacts.buckets import ObjectStorage, client_options, fetch_objects, retry_options
from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

if TYPE_CHECKING:
    from obstore.store import GCSStore

__all__ = ["STORAGE", "fetch"]


def _open(bucket: str, environ: Mapping[str, str]) -> GCSStore:
    from obstore.store import GCSStore  # noqa: PLC0415 -- an extra: only who fetches from there needs it

    return GCSStore(bucket, client_options=client_options(environ, "GOOGLE_BASE_URL"), retry_config=retry_options())


STORAGE = ObjectStorage(
    holder="bucket",
    open=_open,
    advice=(
        "give GOOGLE_SERVICE_ACCOUNT_KEY (the JSON of a key) of an account with storage.objects.get and .list in "
        "the Secret of spec.model.credentials, or GOOGLE_SKIP_SIGNATURE=true for a public bucket"
    ),
    place="GOOGLE_BASE_URL says where to look, for a storage other than Google's",
)


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch an object, or all below a prefix, into the folder `target`. Raises as `fetch_objects` does."""
    return fetch_objects(STORAGE, uri, target, transfer)
