"""s3:// -- Amazon S3, or a storage that speaks its protocol (AWS_ENDPOINT_URL)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard_runtime.artifacts.buckets import ObjectStorage, client_options, fetch_objects, retry_options
from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["STORAGE", "fetch"]


def _open(bucket: str, environ: Mapping[str, str]) -> S3Store:
    from obstore.store import S3Store  # noqa: PLC0415 -- an extra: only who fetches from there needs it

    options = client_options(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return S3Store(bucket, client_options=options, retry_config=retry_options())


STORAGE = ObjectStorage(
    holder="bucket",
    open=_open,
    advice=(
        "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) of a user with s3:GetObject and "
        "s3:ListBucket in the Secret of spec.model.credentials, or AWS_SKIP_SIGNATURE=true for a public bucket"
    ),
    place="AWS_REGION and, for a storage other than Amazon's, AWS_ENDPOINT_URL say where to look",
)


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch an object, or all below a prefix, into the folder `target`. Raises as `fetch_objects` does."""
    return fetch_objects(STORAGE, uri, target, transfer)
