"""A queue of keys: each waits at most once, runs at most once at a time, and is tried again when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["WorkQueue"]

Key = TypeVar("Key")

_BACKOFF_FIRST = 0.5
_BACKOFF_LIMIT = 30.0  # after an outage of minutes everything is caught up within one
_SLOW_SECONDS = 1.0
_MOST_SLOW = 64


@dataclass
class WorkQueue(Generic[Key]):
    """Runs `work(key)` for every key added, with `workers` at once.

    `work` returns seconds after which to run again, or None. When it raises, the key is tried again with exponential
    back-off and jitter. Adding a key while it runs makes it run once more afterwards, so no change is missed. A key
    that takes longer than a second gives its place to the next, so that one object's trouble never delays another's.
    """

    work: Callable[[Key], Awaitable[float | None]]
    workers: int = 8
    random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()  # in _ready
        self._running: dict[Key, float] = {}  # key -> loop time of the start
        self._dirty: set[Key] = set()  # added while running
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._places = asyncio.Semaphore(self.workers)
        self._tasks = asyncio.Semaphore(self.workers + _MOST_SLOW)

    def add(self, key: Key, after: float = 0.0) -> None:
        """Let a key run, now or after some seconds. An earlier time that is already set stays."""
        loop = asyncio.get_running_loop()
        if after > 0:
            timer = self._timers.get(key)
            if timer is not None and timer.when() <= loop.time() + after:
                return
            if timer is not None:
                timer.cancel()
            self._timers[key] = loop.call_later(after, self._due, key)
        elif key in self._running:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def depth(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._waiting)

    def oldest_seconds(self) -> float:
        """Return for how long the longest of the running keys has been running."""
        now = asyncio.get_running_loop().time()
        return max((now - started for started in self._running.values()), default=0.0)

    async def run(self) -> None:
        """Work until cancelled; a task that dies takes the whole queue with it, loudly."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._tasks.acquire()
                    await self._places.acquire()
                    key = await self._ready.get()
                    self._waiting.discard(key)
                    self._running[key] = asyncio.get_running_loop().time()
                    group.create_task(self._run(key))
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def _run(self, key: Key) -> None:
        place = contextlib.ExitStack()
        place.callback(self._places.release)
        slow = asyncio.get_running_loop().call_later(_SLOW_SECONDS, place.close)
        after: float | None = None
        try:
            after = await self.work(key)
            self._failures.pop(key, None)
        except Exception:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            longest = min(_BACKOFF_LIMIT, _BACKOFF_FIRST * 2 ** min(failures - 1, 20))
            after = longest * self.random.uniform(0.5, 1.0)
        finally:
            del self._running[key]
            slow.cancel()
            place.close()  # gives it once, here or above
            self._tasks.release()
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
        elif after is not None:
            self.add(key, after)
