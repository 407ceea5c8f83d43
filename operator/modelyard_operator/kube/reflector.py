"""One kind of objects, listed once and watched from there on, into the store.

Level-triggered: whatever happens to a watch, the store is brought to what is there, and every difference is told, also
that an object went while nobody watched. kopf's watches tell of no such deletion, end the process at an error in the
stream, and look for the kinds only once.

The protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.kube.connection import Connection, Gone, NotFound
from modelyard_operator.kube.paths import collection_path
from modelyard_operator.kube.store import Store
from modelyard_operator.reconcile.verbs import ClusterError, Forbidden, Object, Unavailable

__all__ = ["OnChange", "Reflector"]

OnChange = Callable[[str, Object, bool], None]
"""Is told of (kind, object, whether it went)."""

_PAGE = "250"
_WATCH_SECONDS = 300
_SILENCE_SECONDS = 50.0
"""After this long without an event or a bookmark the connection may be lost, whatever TCP thinks: it is made anew."""
_BACKOFF_FIRST = 0.5
_BACKOFF_LIMIT = 15.0


class Reflector:
    """Keeps the store's objects of one kind in line with the API server's.

    Args:
        connection: to the API server.
        store: takes the objects.
        on_change: is told of each difference, after the store has it.
        kind: of the objects.
        namespace: the one to watch; empty for all.
        selector: the label selector, applied by the server.
        page: held for each page of a list. One for all reflectors: a page takes some MiB until it is in the store.
    """

    def __init__(
        self,
        connection: Connection,
        store: Store,
        on_change: OnChange,
        *,
        kind: str,
        namespace: str = "",
        selector: str = "",
        page: asyncio.Lock,
    ) -> None:
        self._connection, self._store, self._on_change = connection, store, on_change
        self._page_lock = page
        self._kind, self._namespace = kind, namespace
        self._path = collection_path(kind, namespace)
        self._query = {"labelSelector": selector} if selector else {}
        self._log = logging.getLogger("modelyard.operator")
        self._random = random.Random()  # noqa: S311 - spreads requests, guards nothing
        self._said = ""
        self.synced = asyncio.Event()
        """Set once the store has been complete for this kind."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        version, failures = "", 0
        while True:
            begun = version
            try:
                if not version:
                    version = await self._list()
                    self._say_well()
                await self._watch(version)
            except Gone:
                version = ""
            except NotFound as error:
                self._forget_all()
                version = ""
                self._say(self._missing(error))
            except Forbidden as error:
                version = ""
                self._say(f"the operator lacks a right: {error}")
            except ClusterError as error:
                self._say(f"{error}; trying again")
            # A stream that brought anything, or lasted its time, was a good one.
            version = self._store.position(self._kind, self._namespace) if version else ""
            failures = 0 if version and version != begun else failures + 1
            if failures:
                longest = min(_BACKOFF_LIMIT, _BACKOFF_FIRST * 2 ** min(failures - 1, 10))
                await asyncio.sleep(longest * self._random.uniform(0.5, 1.0))

    async def _list(self) -> str:
        listed: list[tuple[str, str]] = []
        query = {**self._query, "limit": _PAGE}
        while True:
            async with self._page_lock:
                metadata = await self._take_page(query, listed)
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        version: str = metadata["resourceVersion"]
        for obj in self._store.forget_others(self._kind, self._namespace, listed, int(version)):
            self._on_change(self._kind, obj, True)
        self.synced.set()
        return version

    async def _take_page(self, query: Mapping[str, str], listed: list[tuple[str, str]]) -> Object:
        """Put a page into the store, and its names into `listed`; return the list's metadata."""
        page = await self._connection.request("GET", self._path, verb="list", kind=self._kind, query=query)
        for obj in page["items"]:
            listed.append((obj["metadata"]["namespace"], obj["metadata"]["name"]))
            if self._store.put(self._kind, obj):
                self._on_change(self._kind, obj, False)
        metadata: Object = page["metadata"]
        return metadata

    async def _watch(self, version: str) -> None:
        seconds = _WATCH_SECONDS + self._random.randrange(60)  # so that the kinds' watches do not end at one time
        query = {
            **self._query,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        events = self._connection.watch(self._path, query, kind=self._kind, silence=_SILENCE_SECONDS)
        async with contextlib.aclosing(events):
            async for event in events:
                self._take(event["type"], event["object"])

    def _take(self, event: str, obj: Object) -> None:
        if event == "ERROR":
            message = f"the watch of {self._path} ended: {obj.get('message', obj)}"
            raise Gone(message) if obj.get("code") == 410 else Unavailable(message)
        if event == "BOOKMARK":
            self._store.pass_by(self._kind, self._namespace, int(obj["metadata"]["resourceVersion"]))
        elif self._store.deliver(self._kind, self._namespace, obj, deleted=event == "DELETED"):
            self._on_change(self._kind, obj, event == "DELETED")
        self._say_well()

    def _forget_all(self) -> None:
        """Take note that the kind went, and all its objects with it."""
        position = self._store.position(self._kind, self._namespace)
        if position:
            for obj in self._store.forget_others(self._kind, self._namespace, (), int(position)):
                self._on_change(self._kind, obj, True)

    def _missing(self, error: NotFound) -> str:
        if self._kind in CUSTOM_KINDS:
            name = f"{CUSTOM_KINDS[self._kind].plural}.modelyard.dev"
            return f"the CustomResourceDefinition {name} is not there: apply crds/ (the chart does); waiting for it"
        return f"the API server has no {self._kind}: {error}"

    def _say(self, message: str) -> None:
        """Log a trouble once, and not at each try."""
        if message != self._said:
            self._log.warning("%s", message)
        self._said = message

    def _say_well(self) -> None:
        if self._said:
            self._log.info("%s: watching again", self._path)
        self._said = ""
