"""The response cache: responses kept for a while, and equal requests computed once.

Only requests that ask for it (`use_cache`) come here. Least recently used responses go first; all are bounded in bytes
and in age.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.fingerprint import bytes_of, fingerprint
from modelyard_runtime.dataplane.offload import offload
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import ClientGone, DeadlineExceeded
from modelyard_runtime.formats.base import Array
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import CacheLookup

__all__ = ["ResponseCache", "ResponseStore", "size_of_response"]

_ENTRY_BYTES = 400
"""Bytes of an entry beside its input and response: the key's tuple, the dictionary's slot, object headers."""
Cached: TypeAlias = bytes | Mapping[str, Array]
"""A response as it is kept: an encoded part of a body, or outputs by name that nobody changes."""
_T = TypeVar("_T", bound=Cached)


class ResponseStore:
    """A TTL and LRU store of responses. Not thread-safe: for the event loop's thread alone.

    The key is all that a response depends on (model, version, shape and bytes of the input): two models share none.
    """

    def __init__(
        self, *, ttl: float, max_bytes: int, clock: Callable[[], float], size: Callable[[Any], int] = len
    ) -> None:
        """`ttl` in seconds, 0 for never; `clock` gives monotonic seconds, `size` the bytes of a response."""
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[float, int, Any]] = OrderedDict()
        self.bytes = 0
        """Bytes that the entries take now."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """Return the response, or None when there is none or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, _, response = entry
        if self._clock() >= expires:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return response

    def put(self, key: Hashable, response: Any, input_bytes: int) -> None:
        """Keep a response whose key holds `input_bytes` bytes; one larger than the whole store is not kept."""
        size = self._size(response) + input_bytes + _ENTRY_BYTES
        if size > self._max_bytes or self._ttl <= 0:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (self._clock() + self._ttl, size, response)
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def forget(self, matches: Callable[[Any], bool]) -> None:
        """Drop the responses of which `matches(key)` is true."""
        for key in [key for key in self._entries if matches(key)]:
            self._remove(key)

    def _remove(self, key: Hashable) -> None:
        self.bytes -= self._entries.pop(key)[1]


class ResponseCache:
    """Responses that are kept, and those on their way. For the event loop's thread.

    When another version of a model becomes active, or the model goes, its responses are dropped, and those that are
    still being computed are given to the requests that wait for them and to no other.
    """

    def __init__(self, store: ResponseStore, registry: Registry, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._computing: dict[Hashable, asyncio.Future[Any]] = {}
        registry.on_change(self._forget)

    async def get(
        self,
        call: Call,
        served: ServedModel,
        form: Hashable,
        inputs: Mapping[str, Array],
        compute: Callable[[], Awaitable[_T]],
    ) -> _T:
        """Return the response to `inputs`; `call.lookup.cached` says whether it was computed for an earlier request.

        `form` is all that the response depends on beside the model and its inputs: which protocol's form it has, which
        outputs are wanted. Raises DeadlineExceeded, and what `compute` raises.
        """
        lookup = call.lookup = CacheLookup(call.clock)
        lookup.on_lookup()
        try:
            content, size = await offload(sum(map(bytes_of, inputs.values())), fingerprint, inputs)
            key = (served.name, served.version, id(served), form, content)
            found: _T | None = await self._find(key, call.deadline, lookup)
            return found if found is not None else await self._lead(served, key, size, compute, lookup)
        finally:
            self._metrics.cache(served.name, hit=lookup.cached)

    async def _find(self, key: Hashable, deadline: float, lookup: CacheLookup) -> Any:
        """Return the response that is kept, or that is being computed; None: it is to be computed."""
        loop = asyncio.get_running_loop()
        while True:
            kept = self._store.get(key)
            if kept is not None:
                lookup.on_found()
                return kept
            computing = self._computing.get(key)
            if computing is None:
                lookup.on_missed()
                return None
            # Not asyncio.timeout, which asks for a task: this may be the first step of a request, taken outside one.
            await asyncio.wait({computing}, timeout=max(0.0, deadline - loop.time()))
            if not computing.done():
                raise DeadlineExceeded("the model did not answer in time; send fewer rows, or raise the timeout")
            if computing.cancelled():
                continue  # the other client gave up: compute it again
            error = computing.exception()
            if isinstance(error, ClientGone) or (isinstance(error, DeadlineExceeded) and loop.time() < deadline):
                continue  # the other client left, or had less time than this one
            if error is not None:
                raise error
            lookup.on_found()
            return computing.result()

    async def _lead(
        self,
        served: ServedModel,
        key: Hashable,
        size: int,
        compute: Callable[[], Awaitable[_T]],
        lookup: CacheLookup,
    ) -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._computing[key] = future
        try:
            response = await compute()
        except Exception as exc:
            future.set_exception(exc)
            raise
        except BaseException:
            future.cancel()
            raise
        else:
            lookup.on_keep()
            if isinstance(response, bytes):
                # A copy: orjson leaves up to 4 KiB of spare memory behind the bytes that it returns.
                response = bytes(memoryview(response))  # type: ignore[assignment]  # _T is bytes here
            future.set_result(response)
            if self._registry.is_active(served):
                self._store.put(key, response, size)
            lookup.on_kept()
            return response
        finally:
            del self._computing[key]

    def _forget(self, name: str) -> None:
        self._store.forget(lambda key: key[0] == name)


def size_of_response(response: Cached) -> int:
    """Return the bytes that a response takes."""
    return len(response) if isinstance(response, bytes) else sum(map(bytes_of, response.values()))


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take note of an exception that nobody else may have waited for."""
    if not future.cancelled():
        future.exception()
