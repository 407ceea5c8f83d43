"""How each object storage is opened: which variables of the environment are looked at, and what to tell who lacks one.

obstore itself reads the process's environment, under the names that each storage's own tools use; what it does not
know by itself (which certificates to trust, whether plain http is meant) is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

__all__ = ["STORES", "Access"]


@dataclass(frozen=True)
class Access:
    """One kind of storage."""

    holder: str
    """What a bucket of it is called."""
    open: Callable[[str, Mapping[str, str]], S3Store | GCSStore | AzureStore]
    """Called with the bucket's name and the environment; raises what obstore raises."""
    advice: str
    """What to do when reading is refused."""
    place: str
    """What to check when the bucket is not where we look."""


def _client(environ: Mapping[str, str], *endpoints: str) -> ClientConfig:
    """Return the HTTP client's options: no limit on the whole, but on a silent connection; http if asked for."""
    options: ClientConfig = {
        "timeout": timedelta(days=7),
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=30),
        "user_agent": "modelyard",
        "allow_http": any(environ.get(name, "").lower().startswith("http://") for name in endpoints),
    }
    if authorities := environ.get("SSL_CERT_FILE"):
        options["root_certificate"] = Path(authorities).read_bytes()
    return options


def _retry() -> RetryConfig:
    """Return the library's own retries of one request; Transfer.retry begins anew after them."""
    pause = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5)}
    return {"max_retries": 2, "retry_timeout": timedelta(seconds=60), "backoff": {"base": 2, **pause}}  # type: ignore[typeddict-item]


def _s3(bucket: str, environ: Mapping[str, str]) -> S3Store:
    from obstore.store import S3Store  # noqa: PLC0415 -- an extra: needed only by who fetches from there

    client = _client(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return S3Store(bucket, client_options=client, retry_config=_retry())


def _gs(bucket: str, environ: Mapping[str, str]) -> GCSStore:
    from obstore.store import GCSStore  # noqa: PLC0415 -- as above

    return GCSStore(bucket, client_options=_client(environ, "GOOGLE_BASE_URL"), retry_config=_retry())


def _az(container: str, environ: Mapping[str, str]) -> AzureStore:
    from obstore.store import AzureStore  # noqa: PLC0415 -- as above

    client = _client(environ, "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    return AzureStore(container, client_options=client, retry_config=_retry())


STORES: Mapping[str, Access] = {
    "s3": Access(
        holder="bucket",
        open=_s3,
        advice=(
            "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) of a user with s3:GetObject and "
            "s3:ListBucket in the Secret of spec.model.credentials, or AWS_SKIP_SIGNATURE=true for a public bucket"
        ),
        place="AWS_REGION and, for a storage other than Amazon's, AWS_ENDPOINT_URL say where to look",
    ),
    "gs": Access(
        holder="bucket",
        open=_gs,
        advice=(
            "give GOOGLE_SERVICE_ACCOUNT_KEY (the JSON of a key) of an account with storage.objects.get and .list in "
            "the Secret of spec.model.credentials, or GOOGLE_SKIP_SIGNATURE=true for a public bucket"
        ),
        place="GOOGLE_BASE_URL says where to look, for a storage other than Google's",
    ),
    "az": Access(
        holder="container",
        open=_az,
        advice=(
            "give AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN in the Secret of "
            "spec.model.credentials, or AZURE_SKIP_SIGNATURE=true for a public container"
        ),
        place=(
            "AZURE_STORAGE_ACCOUNT_NAME and, for a storage other than Azure's, AZURE_STORAGE_ENDPOINT say where to look"
        ),
    ),
}
