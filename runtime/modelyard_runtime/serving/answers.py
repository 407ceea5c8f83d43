"""Answers to requests that may be given one again: from the cache, or from an equal request that is being computed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from modelyard_runtime.errors import DeadlineExceeded
from modelyard_runtime.serving.cache import AnswerCache
from modelyard_runtime.serving.registry import Registry, ServedModel

__all__ = ["Answers"]


class Answers:
    """The cache and what is on its way into it. For the event loop's thread.

    When another version of a model becomes active, or the model goes, its answers are dropped, and those that are
    still being computed are given to who waits for them and to nobody else.
    """

    def __init__(self, cache: AnswerCache, registry: Registry) -> None:
        self._cache = cache
        self._registry = registry
        self._computing: dict[Hashable, asyncio.Future[bytes]] = {}
        registry.on_change(self._forget)

    async def get(
        self,
        served: ServedModel,
        inputs: tuple[Hashable, ...],
        input_bytes: int,
        compute: Callable[[], Awaitable[bytes]],
        *,
        deadline: float,
    ) -> tuple[bytes, bool]:
        """Return the answer to `inputs`, and whether it was computed for an earlier request.

        `inputs` is all that the answer depends on beside the model; it holds `input_bytes` bytes. `deadline` is a time
        of the event loop's clock. Raises DeadlineExceeded, and what `compute` raises.
        """
        key = (served.name, served.version, id(served), *inputs)
        while True:
            answer = self._cache.get(key)
            if answer is not None:
                return answer, True
            computing = self._computing.get(key)
            if computing is None:
                return await self._lead(served, key, input_bytes, compute), False
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
            return computing.result(), True

    async def _lead(
        self, served: ServedModel, key: Hashable, input_bytes: int, compute: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
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
            future.set_result(answer)
            if self._registry.is_active(served):
                self._cache.put(key, answer, input_bytes)
            return answer
        finally:
            del self._computing[key]

    def _forget(self, name: str) -> None:
        self._cache.forget(lambda key: key[0] == name)


def _retrieve(future: asyncio.Future[bytes]) -> None:
    """Take note of an exception that nobody else may have waited for."""
    if not future.cancelled():
        future.exception()
