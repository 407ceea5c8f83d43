"""Object storage: one object, or all objects below a prefix, through obstore (Rust's object_store).

obstore itself reads the process's environment, under the names that each storage's own tools use; what it does not
know by itself (which certificates to trust, whether plain http is meant) is added here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.paths import safe_path
from modelyard_runtime.artifacts.transfer import Incoming, Transfer, Transient
from modelyard_runtime.artifacts.uri import ArtifactURI
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, UnsafeArtifact

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

__all__ = ["ObjectStorage", "client_options", "fetch_objects", "retry_options"]

_CHUNK = 1024 * 1024
_METADATA = r"/latest/(api|meta-data)|/computeMetadata/|/metadata/identity|//169\.254\.170\."
"""Requests to a machine's metadata service, which the library asks where it was given no credentials."""
_STALE = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"})
Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectStorage:
    """The ways of one storage."""

    holder: str
    """The name that it gives to a bucket."""
    open: Callable[[str, Mapping[str, str]], S3Store | GCSStore | AzureStore]
    """Called with the bucket's name and the environment; raises what obstore raises."""
    advice: str
    """The next step where reading is refused: the credentials to give."""
    place: str
    """The settings to check where the bucket is not found."""


def client_options(environ: Mapping[str, str], *endpoints: str) -> ClientConfig:
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


def retry_options() -> RetryConfig:
    """Return the library's own retries of one request; Transfer.retry begins anew after them."""
    pause = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5)}
    return {"max_retries": 2, "retry_timeout": timedelta(seconds=60), "backoff": {"base": 2, **pause}}  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class _Bucket:
    """A bucket, opened; every call goes through `guard`, which turns the library's errors into ours."""

    store: S3Store | GCSStore | AzureStore
    uri: ArtifactURI
    storage: ObjectStorage

    @property
    def holder(self) -> str:
        return f"{self.storage.holder} {self.uri.host}"

    def guard(self, call: Callable[[], Result], key: str) -> Result:
        """Call it. Raises FileNotFoundError, Transient, AccessDenied, LoadFailed, UnsafeArtifact.

        The library's own words are never passed on: they quote requests and answers, which hold keys and signatures.
        """
        from obstore.exceptions import (  # noqa: PLC0415
            BaseError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        try:
            return call()
        except FileNotFoundError as exc:
            if "NoSuchBucket" in str(exc) or "ContainerNotFound" in str(exc):
                self._no_bucket()
            raise
        except (PermissionDeniedError, UnauthenticatedError) as exc:
            raise self._denied(_code(str(exc))) from None
        except PreconditionError:
            raise self.changed(key) from None
        except ValueError:
            raise UnsafeArtifact(f"{self.holder} holds a key with '..', '.' or an empty part near {key!r}") from None
        except BaseError as exc:
            self._explain(str(exc), key)

    def _explain(self, text: str, key: str) -> NoReturn:
        code = _code(text)
        if "NoSuchBucket" in text or "ContainerNotFound" in text or re.search(r"code: 404\b", text):
            self._no_bucket()  # a missing object is FileNotFoundError
        if "illegal character sequence" in text or "empty path segment" in text or "parsing Path" in text:
            raise UnsafeArtifact(
                f"{self.holder} holds a key below {key!r} with '..', '.' or an empty part; rename it"
            ) from None
        if re.search(_METADATA, text):
            raise AccessDenied(
                f"{self.holder}: there are no credentials, and the machine's metadata service has none either; "
                f"{self.storage.advice}"
            ) from None
        if code in _STALE or ("token request" in text and not re.search(r"code: 5\d\d", text)):
            raise AccessDenied(
                f"{self.holder}: the credentials are not taken ({code}); {self.storage.advice}"
            ) from None
        if re.search(r"code: 30\d|PermanentRedirect", text):
            raise LoadFailed(
                f"{self.holder} is in another region or at another endpoint; {self.storage.place}"
            ) from None
        if "certificate" in text.lower():
            raise AccessDenied(
                f"{self.holder}: the server's certificate is not trusted; give the authority's file in SSL_CERT_FILE"
            ) from None
        if re.search(r"code: 4\d\d", text) and not re.search(r"code: (408|425|429)", text):
            if re.search(r"code: 40[13]", text):
                raise self._denied(code) from None
            raise LoadFailed(f"{self.holder}, key {key!r}: the server answers {code}; {self.storage.place}") from None
        raise Transient(f"{self.holder}, key {key!r}: {code}") from None

    def changed(self, key: str) -> LoadFailed:
        """Return the error for an object that is another one now."""
        return LoadFailed(f"{key!r} in {self.holder} was changed while it was fetched; it is fetched anew")

    def _denied(self, code: str) -> AccessDenied:
        return AccessDenied(
            f"reading {str(self.uri.path)!r} in {self.holder} is not allowed ({code}); {self.storage.advice}"
        )

    def _no_bucket(self) -> NoReturn:
        raise ArtifactNotFound(f"there is no {self.holder}; check the uri; {self.storage.place}") from None


def fetch_objects(storage: ObjectStorage, uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch the object at `uri`, or all objects below that prefix, into the folder `target`.

    Server errors and broken connections are retried, and what has arrived of an object is kept as long as its ETag is
    the same. Raises ArtifactNotFound, AccessDenied, UnsafeArtifact for keys that lead out of the prefix, LoadFailed
    over the budget or where the library is not installed.
    """
    bucket = _open(storage, uri, transfer.environ)
    key = str(uri.path)
    whole = _head(bucket, key, transfer)
    # An empty object can stand for a folder, as in Azure's hierarchical namespaces.
    listed = {} if whole is not None and whole["size"] else transfer.retry(uri.text, lambda: _list(bucket, key))
    if whole is not None and not listed:
        sha256, size = _receive(bucket, whole, target / uri.name, transfer)
        return Copied({uri.name: sha256}, size, single=True)
    if not listed:
        raise ArtifactNotFound(
            f"{bucket.holder} has neither an object {key!r} nor any below {key + '/'!r}; check the uri and that the "
            "model was uploaded"
        )
    _check_budget(listed.values(), transfer)
    files: dict[str, str] = {}
    total = 0
    for relative, meta in listed.items():
        path = target / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files[relative], size = _receive(bucket, meta, path, transfer)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise LoadFailed(
                f"{bucket.holder} has both an object and a folder at {meta['path']!r}; remove one"
            ) from None
        total += size
    # An object that came, went or changed meanwhile: what was fetched was there at no single moment.
    after = transfer.retry(uri.text, lambda: _list(bucket, key))
    if _versions(after) != _versions(listed):
        raise bucket.changed(key)
    return Copied(files, total, single=False)


def _versions(listed: Mapping[str, ObjectMeta]) -> dict[str, tuple[int, str | None]]:
    return {name: (meta["size"], meta["e_tag"]) for name, meta in listed.items()}


def _open(storage: ObjectStorage, uri: ArtifactURI, environ: Mapping[str, str]) -> _Bucket:
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415
    except ImportError:
        raise LoadFailed(f"{uri.scheme}:// needs the package obstore: pip install 'modelyard[storage]'") from None
    try:
        return _Bucket(storage.open(uri.host, environ), uri, storage)
    except (BaseError, ValueError, OSError):
        # The library's words could quote the key itself.
        raise AccessDenied(f"the credentials for {uri.text} can't be read; {storage.advice}") from None


def _head(bucket: _Bucket, key: str, transfer: Transfer) -> ObjectMeta | None:
    import obstore  # noqa: PLC0415

    def attempt() -> ObjectMeta | None:
        try:
            return bucket.guard(lambda: obstore.head(bucket.store, key), key)
        except FileNotFoundError as exc:
            if isinstance(exc, ArtifactNotFound):
                raise
            return None

    return transfer.retry(bucket.uri.text, attempt)


def _list(bucket: _Bucket, key: str) -> dict[str, ObjectMeta]:
    """Return what is below the prefix, by relative path; folder markers, which hold nothing, left out."""
    import obstore  # noqa: PLC0415

    def pages() -> Iterator[ObjectMeta]:
        for page in obstore.list(bucket.store, prefix=key, chunk_size=1000):
            yield from page

    def collect() -> dict[str, ObjectMeta]:
        found: dict[str, ObjectMeta] = {}
        for meta in pages():
            relative = meta["path"].removeprefix(key).lstrip("/")
            if relative:
                found[safe_path(bucket.holder, relative, len(found)).as_posix()] = meta
        return found

    try:
        found = bucket.guard(collect, key)
    except FileNotFoundError as exc:
        if isinstance(exc, ArtifactNotFound):
            raise
        return {}
    folders = {parent.as_posix() for relative in found for parent in safe_path("", relative).parents}
    return {name: found[name] for name in sorted(found) if not (name in folders and found[name]["size"] == 0)}


def _check_budget(metas: Iterable[ObjectMeta], transfer: Transfer) -> None:
    """Refuse before the first byte what is too large in all."""
    total = sum(meta["size"] for meta in metas)
    if total > transfer.budget.left:
        transfer.budget.take(total)


def _receive(bucket: _Bucket, meta: ObjectMeta, path: Path, transfer: Transfer) -> tuple[str, int]:
    import obstore  # noqa: PLC0415

    key, size, etag = meta["path"], meta["size"], _quoted(meta["e_tag"])
    what = f"{bucket.uri.scheme}://{bucket.uri.host}/{key}"
    with Incoming(path, transfer, what, size) as incoming:

        def read() -> None:
            if incoming.size and not etag:
                incoming.restart()
            options: GetOptions = {"if_match": etag} if etag else {}
            if incoming.size:
                options["range"] = {"offset": incoming.size}
            result = obstore.get(bucket.store, key, options=options)
            if etag and _quoted(result.meta["e_tag"]) not in ("", etag):  # a storage that ignores If-Match
                raise bucket.changed(key)
            for chunk in result.stream(min_chunk_size=_CHUNK):
                incoming.write(bytes(chunk))

        def attempt() -> None:
            if size == 0 or incoming.size < size:
                try:
                    bucket.guard(read, key)
                except FileNotFoundError as exc:
                    if isinstance(exc, ArtifactNotFound):
                        raise
                    raise ArtifactNotFound(f"{what} is gone since it was listed; check who removes it") from None
            if incoming.size != size:
                raise Transient(f"the connection broke after {incoming.size} of {size} bytes")

        transfer.retry(what, attempt, incoming)
        return incoming.sha256, incoming.size


def _quoted(etag: str | None) -> str:
    """Return an ETag as a header has it: some storages list it without its quotes. Empty for none, or a weak one."""
    if not etag or etag.startswith("W/"):
        return ""
    return etag if etag.startswith('"') else f'"{etag}"'


def _code(text: str) -> str:
    """Return what is safe to show of the library's error: the storage's error code, or the HTTP status."""
    found = re.search(r"<Code>(\w{3,60})</Code>", text) or re.search(
        r"status(?: code)?:? ?(\d{3}[A-Za-z ]{0,24})", text
    )
    if found:
        return found.group(1).strip()
    if "timed out" in text.lower() or "TimedOut" in text:
        return "no answer in time"
    return "the connection broke" if "body" in text.lower() else "no connection"
