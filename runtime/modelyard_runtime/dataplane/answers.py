"""Answers to requests that may be given one again: from the cache, or from an equal request that is being computed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar

from modelyard_runtime.dataplane.cache import AnswerCache
from modelyard_runtime.dataplane.exact import bytes_of, exact
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import DeadlineExceeded
from modelyard_runtime.formats.base import Array
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Look

__all__ = ["Answers", "size_of_answer"]

_THREAD_BYTES = 262144
"""Inputs of more bytes than this are made into a key in a thread: they would hold the event loop too long."""
_Answer: TypeAlias = bytes | Mapping[str, Array]
"""What is kept: an encoded part of a body, or outputs by name that nobody changes."""
_T = TypeVar("_T", bound=_Answer)


class Answers:
    """The cache and what is on its way into it. For the event loop's thread.

    When another version of a model becomes active, or the model goes, its answers are dropped, and those that are
    still being computed are given to who waits for them and to nobody else.
    """

    def __init__(self, cache: AnswerCache, registry: Registry, metrics: Metrics) -> None:
        self._cache = cache
        self._registry = registry
        self._metrics = metrics
        self._computing: dict[Hashable, asyncio.Future[Any]] = {}
        registry.on_change(self._forget)

    async def get(
        self,
        served: ServedModel,
        form: Hashable,
        inputs: Mapping[str, Array],
        compute: Callable[[], Awaitable[_T]],
        *,
        deadline: float,
        look: Look,
    ) -> _T:
        """Return the answer to `inputs`; `look.cached` says whether it was computed for an earlier request.

        `form` is all that the answer depends on beside the model and its inputs: which protocol's form it has, which
        outputs are wanted. `deadline` is a time of the event loop's clock. Raises DeadlineExceeded, and what `compute`
        raises.
        """
        look.on_look()
        try:
            if sum(map(bytes_of, inputs.values())) > _THREAD_BYTES:
                content, size = await asyncio.to_thread(exact, inputs)
            else:
                content, size = exact(inputs)
            key = (served.name, served.version, id(served), form, content)
            answer: _T = await self._find(served, key, size, compute, deadline=deadline, look=look)
            return answer
        finally:
            self._metrics.cache(served.name, hit=look.cached)

    async def _find(
        self,
        served: ServedModel,
        key: Hashable,
        size: int,
        compute: Callable[[], Awaitable[_T]],
        *,
        deadline: float,
        look: Look,
    ) -> _T:
        while True:
            kept: _T | None = self._cache.get(key)
            if kept is not None:
                look.on_found()
                return kept
            computing = self._computing.get(key)
            if computing is None:
                look.on_missed()
                return await self._lead(served, key, size, compute, look)
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            # Not asyncio.timeout, which asks for a task: this may be the first step of a request, taken outside one.
            await asyncio.wait({computing}, timeout=left)
            if not computing.done():
                raise DeadlineExceeded("the model did not answer in time; send fewer rows, or raise the timeout")
            if computing.cancelled():
                continue  # the other client gave up: compute it again
            error = computing.exception()
            if isinstance(error, DeadlineExceeded) and asyncio.get_running_loop().time() < deadline:
                continue  # the other client had less time than this one
            if error is not None:
                raise error
            look.on_found()
            answer: _T = computing.result()
            return answer

    async def _lead(
        self,
        served: ServedModel,
        key: Hashable,
        size: int,
        compute: Callable[[], Awaitable[_T]],
        look: Look,
    ) -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._computing[key] = future
        try:
            answer = await compute()
        except Exception as exc:
            future.set_exception(exc)
            raise
        except BaseException:
            future.cancel()
            raise
        else:
            look.on_keep()
            future.set_result(answer)
            if self._registry.is_active(served):
                self._cache.put(key, answer, size)
            look.on_kept()
            return answer
        finally:
            del self._computing[key]

    def _forget(self, name: str) -> None:
        self._cache.forget(lambda key: key[0] == name)


def size_of_answer(answer: _Answer) -> int:
    """Return the bytes that an answer takes."""
    return len(answer) if isinstance(answer, bytes) else sum(map(bytes_of, answer.values()))


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take note of an exception that nobody else may have waited for."""
    if not future.cancelled():
        future.exception()
