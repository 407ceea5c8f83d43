"""Waiting for what nobody announces: a look again and again, until what it gives is good."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import time
from collections.abc import Callable
from typing import Any

__all__ = ["eventually", "eventually_async", "last_seen"]


def eventually(
    look: Callable[[], Any],
    good: Callable[[Any], bool] = bool,
    *,
    every: float,
    seconds: float = math.inf,
    failure: Callable[[Any], str] = repr,
) -> Any:
    """Return what `look` gives once it is good, looking `every` so many seconds.

    After `seconds` (never: the test's own timeout bounds it) fail with what `failure` says of the last look.
    """
    end = time.monotonic() + seconds
    while not good(seen := look()):
        assert time.monotonic() < end, failure(seen)
        time.sleep(every)
    return seen


async def eventually_async(
    look: Callable[[], Any],
    good: Callable[[Any], bool] = bool,
    *,
    every: float,
    seconds: float = math.inf,
    failure: Callable[[Any], str] = repr,
) -> Any:
    """Do as `eventually` does, while the event loop runs; `look` may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if good(seen):
            return seen
        assert time.monotonic() < end, failure(seen)
        await asyncio.sleep(every)


def last_seen(what: str, seconds: float, *, most: int) -> Callable[[Any], str]:
    """Return a `failure` that says what was waited for, for how long, and `most` characters of what there was."""
    return lambda seen: f"waited {seconds:.0f} s for {what}; last seen: {json.dumps(seen, default=str)[:most]}"
