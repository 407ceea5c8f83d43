"""What brings models up: fetches and loads them in a thread while others answer, and swaps them in without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from modelyard_runtime.dataplane.loading import load_served
from modelyard_runtime.dataplane.registry import ModelState, Registry, ServedModel
from modelyard_runtime.dataplane.thread_pool import ThreadPool
from modelyard_runtime.errors import StartupFailure, UnknownModel
from modelyard_runtime.telemetry.metrics import Metrics

__all__ = ["Catalog", "Loaded", "Signature", "Source", "signature_of"]

_logger = logging.getLogger("modelyard")
_WATCH_SECONDS = 0.5
Signature: TypeAlias = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from, and under which name it is served."""

    name: str
    uri: str = ""
    directory: Path | None = None
    """A folder into which it was fetched before; None: it is fetched when it is loaded."""
    format: str = ""
    """Empty: the one that is found."""
    version: str = ""
    """Empty: the one of artifact.json, which is made from the digest."""
    digest: str = ""
    """The digest that must be fetched; empty: any."""

    @property
    def local(self) -> Path | None:
        """The file or folder of a file:// uri."""
        parts = urlsplit(self.uri)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


@dataclass(frozen=True)
class Loaded:
    """A model that was loaded, and the seconds that fetching, loading and warm-up took."""

    served: ServedModel
    seconds: float


@dataclass(frozen=True)
class _Kept:
    """A version that is loaded, where it came from, and the folder that it was fetched into for that."""

    served: ServedModel
    source: Source
    folder: Path | None


class Catalog:
    """Loads models into a registry. For the event loop's thread; the work itself is done in a thread.

    Changes of one model are made one after the other: what is unloaded while it loads is unloaded afterwards.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        *,
        allow_pickle: bool = False,
        batchable: bool | None = None,
        warmup_requests: int = 1,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._allow_pickle = allow_pickle
        self._batchable = batchable
        self._warmup_requests = warmup_requests
        self._threads = ThreadPool(1, "load")
        self._root: Path | None = None
        self._kept: list[_Kept] = []
        self._sources: dict[str, Source] = {}
        """Of each model, where the version came from that answers, or answered when it was unloaded."""
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._shown: dict[str, ServedModel] = {}
        registry.on_change(self._show)

    async def load(self, source: Source, *, activate: bool = True) -> Loaded:
        """Fetch and load a model, one after the other, and make it the active version of its name unless told not to.

        A version that is served goes on being served until then, and for good where this fails. Raises StartupFailure.
        """
        async with self._changing[source.name]:
            return await self._bring_up(source, activate=activate)

    async def reload(self, name: str) -> Loaded:
        """Load a model again from its source, one that is unloaded too, and make that version the active one.

        A version that is served goes on being served until then, and for good where this fails. Raises UnknownModel,
        NotReady before it is loaded for the first time, StartupFailure.
        """
        async with self._changing[name]:
            source = self._sources.get(name)
            if source is None:
                if name in self._registry.states:
                    self._registry.resolve(name)
                raise UnknownModel(f"no model {name[:100]!r} is known here; give its uri to POST /models")
            return await self._bring_up(source, activate=True)

    async def _bring_up(self, source: Source, *, activate: bool) -> Loaded:
        loaded, folder = await asyncio.wrap_future(self._threads.submit(lambda: self._load(source)))
        served = loaded.served
        self._metrics.loaded(served.name, served.version, served.format, served.digest, loaded.seconds)
        self._kept.append(_Kept(served, source, folder))
        if activate:
            self._registry.activate(served)
        else:
            self._registry.add(served)
            self._metrics.unloaded(served.name, served.version, served.format, served.digest)
        self._clean()
        return loaded

    async def unload(self, name: str) -> None:
        """Take a model off; `reload` brings it up again. Raises UnknownModel, NotReady before it is loaded."""
        async with self._changing[name]:
            if self._found(name) is not None:
                self._registry.unload(name)
                self._clean()

    async def remove(self, name: str) -> ServedModel | None:
        """Forget a model, and return what answered to its name, None for one that was unloaded.

        Raises UnknownModel, NotReady before it is loaded.
        """
        async with self._changing[name]:
            found = self._found(name)
            self._registry.remove(name)
            self._sources.pop(name, None)
            self._clean()
            return found

    def _found(self, name: str) -> ServedModel | None:
        unloaded = self._registry.states.get(name) is ModelState.UNLOADED
        return None if unloaded else self._registry.resolve(name)

    async def watch(self, source: Source, before: Signature) -> None:
        """Load a local model again whenever its files have changed and then stayed the same for a moment; never ends.

        `before` is how they were before they were loaded: what changes meanwhile counts. What does not load is logged,
        and the version before goes on being served. A model that was unloaded, or that now comes from elsewhere, is
        left alone.
        """
        path = source.local
        if path is None:
            return
        async for now in _signatures(path):
            if now == before:
                continue
            before = now
            if self._registry.active(source.name) is None or self._sources.get(source.name) != source:
                continue
            try:
                loaded = await self.load(source)
            except StartupFailure as exc:
                _logger.error("%s stays as it was: %s: %s", source.name, exc.reason.value, exc.message)  # noqa: TRY400
            else:
                served = loaded.served
                _logger.info("swapped %s to version %s, loaded in %.3f s", served.name, served.version, loaded.seconds)

    def close(self) -> None:
        """End the thread, and delete what was fetched."""
        self._threads.close()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _load(self, source: Source) -> tuple[Loaded, Path | None]:
        folder = None
        if source.directory is None:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="modelyard-"))
            folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            if folder is not None:
                from modelyard_runtime.artifacts.fetch import fetch  # noqa: PLC0415 - in a pod, nothing is fetched here

                fetch(
                    source.uri,
                    folder,
                    digest=source.digest or None,
                    format=source.format or None,
                    version=source.version or None,
                    allow_pickle=self._allow_pickle,
                )
                source = replace(source, directory=folder)
            served, seconds = load_served(
                source.directory or Path(),
                name=source.name,
                uri=source.uri,
                format=source.format,
                version=source.version,
                allow_pickle=self._allow_pickle,
                batchable=self._batchable,
                warmup_requests=self._warmup_requests,
            )
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return Loaded(served, seconds), folder

    def _show(self, name: str) -> None:
        """Keep modelyard_model_info to what answers, and note where that came from."""
        before = self._shown.pop(name, None)
        if before is not None:
            self._metrics.unloaded(before.name, before.version, before.format, before.digest)
        active = self._registry.active(name)
        if active is not None:
            self._shown[name] = active
            for kept in self._kept:
                if kept.served is active:
                    self._sources[name] = kept.source
            self._metrics.active(active.name, active.version, active.format, active.digest)

    def _clean(self) -> None:
        """Delete the files of versions that are no longer loaded."""
        for kept in self._kept:
            if kept.folder is not None and not self._registry.holds(kept.served):
                self._threads.start(lambda folder=kept.folder: shutil.rmtree(folder, ignore_errors=True))  # type: ignore[misc]
        self._kept = [kept for kept in self._kept if self._registry.holds(kept.served)]


def signature_of(source: Source) -> Signature:
    """Return the state of a local model's files; empty for another."""
    return () if source.local is None else _signature(source.local)


async def _signatures(path: Path) -> AsyncIterator[Signature]:
    """Give the state of a file or folder again and again, once it has been the same twice in a row."""
    last: Signature | None = None
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        now = await asyncio.to_thread(_signature, path)
        if now and now == last:
            yield now
        last = now


def _signature(path: Path) -> Signature:
    """Return every file's path, size, time of change and number; empty where there is nothing."""
    found: list[tuple[str, int, int, int]] = []
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        with contextlib.suppress(OSError):  # it may go while we look
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
