"""Waiting for what nobody announces: a look again and again, until what it gives is good."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from typing import Any

__all__ = ["eventually", "eventually_async"]

_SECONDS = 100.0  # nothing is asserted about how long things take: this only ends a test that waits in vain
_SHOWN = 3000  # characters of the last look in a failure's message


def eventually(
    look: Callable[[], Any], good: Callable[[Any], bool] = bool, what: str = "", *, seconds: float = _SECONDS
) -> Any:
    """Return what `look` gives once it is good; after `seconds`, fail with the last look and `what` was waited for."""
    end = time.monotonic() + seconds
    while not good(seen := look()):
        assert time.monotonic() < end, _failure(seen, what, seconds)
        time.sleep(0.05)
    return seen


async def eventually_async(
    look: Callable[[], Any], good: Callable[[Any], bool] = bool, what: str = "", *, seconds: float = _SECONDS
) -> Any:
    """Do as `eventually` does, while the event loop runs; `look` may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if good(seen):
            return seen
        assert time.monotonic() < end, _failure(seen, what, seconds)
        await asyncio.sleep(0.01)


def _failure(seen: Any, what: str, seconds: float) -> str:
    return f"waited {seconds:.0f} s for {what or 'it'}; last seen: {json.dumps(seen, default=str)[:_SHOWN]}"
