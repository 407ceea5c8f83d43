"""A few daemon threads and the queue that they take calls from."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["ThreadPool"]

_T = TypeVar("_T")


class ThreadPool:
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

    def start(self, call: Callable[[], None]) -> None:
        """Run `call`, which must not raise, in a thread; nobody waits for it."""
        self._queue.put(call)

    def close(self) -> None:
        """Let the threads end once the queue is empty; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            del work  # a waiting thread must not keep the last request's data alive
