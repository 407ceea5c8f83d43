"""Work that is too big for the event loop: done in a thread, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["LOOP_BYTES", "offload"]

LOOP_BYTES = 262_144
"""Bytes of JSON or tensors that are read, written or compared in the event loop: about a millisecond's work."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


async def offload(size: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what `function` returns: called here for up to LOOP_BYTES, in a thread for more.

    `size` is the work's in bytes of JSON; who does more with a byte counts it several times.
    """
    if size > LOOP_BYTES:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
