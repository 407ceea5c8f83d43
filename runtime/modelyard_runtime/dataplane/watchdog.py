"""A watchdog over compute threads: a call of a model that never returns is told, counted, and ends in a restart."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from modelyard_runtime.dataplane.batching import Batch, Batcher

__all__ = ["Watchdog"]

_logger = logging.getLogger("modelyard")
_STUCK = 2
"""Timeouts of a request after which a computation counts as stuck: nobody waits for it any more."""
_DEAD = 3
"""Timeouts after which, with every thread stuck, only a restart helps."""


class Watchdog:
    """Looks after the computations of a batcher. For the event loop's thread."""

    def __init__(self, batcher: Batcher, *, timeout: float) -> None:
        """`timeout` of a request in seconds."""
        self._batcher = batcher
        self._timeout = timeout
        self._told: set[int] = set()
        """Batches whose stacks are in the log."""

    @property
    def stuck(self) -> int:
        """Threads whose computation is stuck."""
        return len(self._older_than(_STUCK))

    @property
    def responsive(self) -> bool:
        """Whether there is a thread that is not stuck."""
        return self.stuck < self._batcher.threads

    @property
    def alive(self) -> bool:
        """Whether there is a thread that may still return; false: the process is to be started again."""
        return len(self._older_than(_DEAD)) < self._batcher.threads

    def look(self) -> None:
        """Log the stack of each computation that has become stuck, once. To be called every second or so."""
        stuck = self._older_than(_STUCK)
        for batch in stuck:
            if id(batch) not in self._told:
                _logger.error(
                    "a model has computed %d rows for over %g s, and its thread is lost until it returns:\n%s",
                    batch.rows,
                    _STUCK * self._timeout,
                    _stack(batch.thread),
                )
        self._told = {id(batch) for batch in stuck}

    def _older_than(self, timeouts: int) -> Sequence[Batch]:
        since = self._batcher.clock() - timeouts * self._timeout
        return [batch for batch in self._batcher.running if batch.started < since]


def _stack(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 -- documented; faulthandler can only dump all threads
    return "".join(traceback.format_stack(frame)) if frame is not None else "(the thread has ended)"
