"""Where models compute: cheap ones in the event loop, the others in a few threads behind a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from modelyard_runtime.errors import DeadlineExceeded, ModelFailed, QueueFull, WrongInput
from modelyard_runtime.formats.base import Array, InputRefused, Model, Rows

__all__ = ["Compute", "Workers", "predict_checked"]

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_INLINE_VALUES = 65536
"""Inputs of more values than this go to a thread even for cheap models: they would hold the loop too long."""


class Workers:
    """A fixed number of daemon threads and a queue.

    Not concurrent.futures' pool: that one waits at exit for a call that runs, and a model that hangs would keep
    the process from ending.
    """

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Run `call` in a thread; one that is cancelled before its turn is never run."""
        future: Future[_T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = call()
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

        self._queue.put(work)
        return future

    def close(self) -> None:
        """Let the threads end once the queue is empty; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            del work  # a waiting thread must not keep the last request's data alive


class Compute:
    """Runs models within a deadline, and a bounded number of calls at once."""

    def __init__(self, *, max_queue: int, threads: int | None = None) -> None:
        """`max_queue` calls may wait for one of `threads` threads (the processors this process may use, at most 4)."""
        self._threads = threads or min(4, len(os.sched_getaffinity(0)))
        self._workers = Workers(self._threads, "compute")
        self._limit = self._threads + max_queue
        self._pending = 0
        self._rows = 0

    @property
    def queue_rows(self) -> int:
        """Rows that wait for a thread or are computed in one."""
        return self._rows

    async def predict(self, model: Model, rows: Rows, *, deadline: float) -> Array:
        """Return the model's predictions for `rows`, of shape (rows, features).

        `deadline` is a time of the event loop's clock. Raises DeadlineExceeded, QueueFull, WrongInput for values that
        the model refuses or that give no finite number, ModelFailed when the model raises.
        """
        if model.inline and rows.size <= _INLINE_VALUES:
            return predict_checked(model, rows)
        if self._pending >= self._limit:
            raise QueueFull(f"{self._pending} requests wait already; try again in a moment, or add replicas")
        self._pending += 1
        self._rows += len(rows)
        future = self._workers.submit(lambda: predict_checked(model, rows))
        # Not when the request ends: a call that is past its deadline still holds its thread.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._release, len(rows)))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlineExceeded("the model did not answer in time; send fewer rows, or raise the timeout") from None

    def close(self) -> None:
        """End the threads once they are idle."""
        self._workers.close()

    def _release(self, rows: int) -> None:
        self._pending -= 1
        self._rows -= rows


def predict_checked(model: Model, rows: Rows) -> Array:
    """Return one finite prediction a row. Raises WrongInput, ModelFailed (the cause is logged, and not shown)."""
    try:
        predictions = model.predict(rows)
    except InputRefused as exc:
        raise WrongInput(f"the model refuses these features: {exc}") from None
    except Exception:
        _logger.exception("the model raised for an input of shape %s", rows.shape)
        raise ModelFailed("the model failed; its log says why") from None
    if predictions.shape[:1] != rows.shape[:1]:
        _logger.error("the model returned shape %s for an input of shape %s", predictions.shape, rows.shape)
        raise ModelFailed("the model failed; its log says why")
    if predictions.dtype.kind == "f" and not np.isfinite(predictions).all():
        raise WrongInput("the prediction is not a finite number; the features are out of the model's range")
    return predictions


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[int], None], argument: int) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return  # the loop is closed: nobody counts any more
