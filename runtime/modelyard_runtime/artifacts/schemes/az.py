"""az:// -- Azure Blob Storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard_runtime.artifacts.buckets import ObjectStorage, client_options, fetch_objects, retry_options
from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

if TYPE_CHECKING:
    from obstore.store import AzureStore

__all__ = ["STORAGE", "fetch"]


def _open(container: str, environ: Mapping[str, str]) -> AzureStore:
    from obstore.store import AzureStore  # noqa: PLC0415 -- an extra: only who fetches from there needs it

    options = client_options(environ, "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    return AzureStore(container, client_options=options, retry_config=retry_options())


STORAGE = ObjectStorage(
    holder="container",
    open=_open,
    advice=(
        "give AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN in the Secret of "
        "spec.model.credentials, or AZURE_SKIP_SIGNATURE=true for a public container"
    ),
    place=(
        "AZURE_STORAGE_ACCOUNT_NAME and, for a storage other than Azure's, AZURE_STORAGE_ENDPOINT say where to look"
    ),
)


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch a blob, or all below a prefix, into the folder `target`. Raises as `fetch_objects` does."""
    return fetch_objects(STORAGE, uri, target, transfer)
