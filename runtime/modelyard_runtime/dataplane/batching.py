"""Micro-batching: requests that wait for a busy thread are computed together, and one that finds it idle at once.

Rows are gathered only where nothing can tell the difference: the same model and version, element type, trailing
shape and parameters. All of it runs on the event loop's thread but the computing itself, so there are no locks.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.thread_pool import ThreadPool
from modelyard_runtime.errors import DeadlineExceeded, QueueFull, RequestError
from modelyard_runtime.formats.base import Array

__all__ = ["Batch", "Batcher", "Compute", "Tensors"]

Tensors: TypeAlias = tuple[Array, ...]
"""Inputs or outputs of one call, in the model's order. In a batch, the first axis of every one is the rows."""
Compute: TypeAlias = Callable[[Tensors], Tensors]
"""Computes inputs into outputs. Raises RequestError."""
_Outcome: TypeAlias = Tensors | BaseException

_TURNS = 3
"""Turns of the event loop from a batch's answers to the next batch, when the next one would be smaller than it may be:
the first writes the answers, the second reads what their clients send next, the third parses it. Without them, batches
of many and of one would take turns."""


@dataclass(eq=False)
class _Request:
    """One request of a batch."""

    call: Call
    compute: Compute
    tensors: Tensors
    rows: int
    future: asyncio.Future[Tensors]
    arrived: float
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Whose request it is, for the log."""


@dataclass(eq=False)
class Batch:
    """Requests that are computed together, or one alone."""

    requests: Sequence[_Request]
    rows: int
    started: float = 0.0
    """By the batcher's clock."""
    thread: int = 0
    """The identifier of the thread that computes it; 0 before it has begun."""


class Batcher:
    """Computes rows in threads, gathered into batches while every thread is busy."""

    def __init__(
        self,
        *,
        threads: int,
        max_queue: int,
        max_rows: int = 64,
        max_delay: float = 0.0,
        on_batch: Callable[[int], None] = lambda rows: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `max_queue` requests wait for one of `threads` threads, which compute up to `max_rows` rows at once.

        A request of more rows is computed alone. For `max_delay` seconds a request waits for others even where a
        thread is idle. `on_batch` is told the rows of every batch that is computed. `clock` gives monotonic seconds.
        """
        self._threads = ThreadPool(threads, "compute")
        self._idle = threads
        self.threads = threads
        self.clock = clock
        self.running: set[Batch] = set()
        """Batches that are computed now, each in a thread."""
        self._max_queue = max_queue
        self._max_rows = max_rows
        self._max_delay = max_delay
        self._on_batch = on_batch
        self._lanes: dict[Hashable, deque[_Request]] = {}
        self._waiting = 0
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._holding = 0
        self.rows = 0
        """Rows that wait for a thread or are computed in one."""

    async def run(
        self,
        call: Call,
        compute: Compute,
        tensors: Tensors,
        *,
        rows: int,
        group: Hashable | None,
    ) -> Tensors:
        """Return what `compute` makes of `tensors`, alone or in a batch, before the deadline of `call`.

        Requests of an equal `group`, and of the same trailing shapes and types, are computed together by the `compute`
        of one of them: all else that the answer depends on must be in it. None: alone. Raises QueueFull,
        DeadlineExceeded, ClientGone where the client left while the request waited, and what `compute` raises.
        """
        if self._waiting >= self._max_queue and not (self._idle and not self._waiting):
            raise QueueFull(f"{self._waiting} requests wait already; try again in a moment, or add replicas")
        loop = asyncio.get_running_loop()
        request = _Request(call, compute, tensors, rows, loop.create_future(), loop.time())
        expiry = loop.call_at(call.deadline, _expire, request.future)
        key: Hashable = request
        if group is not None:
            key = (group, *((tensor.dtype, tensor.shape[1:]) for tensor in tensors))
        self._lanes.setdefault(key, deque()).append(request)
        self._waiting += 1
        self.rows += rows
        if not self._holding:
            self._dispatch(loop)
        if call.client is not None and not call.started:
            call.client.queue(request.future)
        try:
            return await request.future
        finally:
            # A request that is cancelled, expired or abandoned stays in its lane until its turn, and is dropped then.
            expiry.cancel()
            if call.client is not None:
                call.client.start(request.future)

    def close(self) -> None:
        """End the threads once they are idle."""
        self._threads.close()

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start as many batches as there are idle threads and lanes that need not wait."""
        while self._idle and self._waiting:
            key, due = self._oldest(loop.time())
            if key is None:
                if due is not None:
                    self._wake_at(loop, due)
                return
            batch = self._gather(key)
            if batch is None:
                continue
            self._idle -= 1
            batch.started = self.clock()
            self.running.add(batch)
            self._on_batch(batch.rows)
            for index, request in enumerate(batch.requests):
                call = request.call
                call.on_start(batch.rows, index == 0)
                if call.client is not None:
                    call.client.start(request.future)
            self._threads.start(lambda batch=batch: self._compute(loop, batch))  # type: ignore[misc]

    def _oldest(self, now: float) -> tuple[Hashable | None, float | None]:
        """Return the lane whose turn it is, or None with the time at which one is due."""
        chosen: Hashable | None = None
        first = due = None
        for key, lane in self._lanes.items():
            arrived = lane[0].arrived
            if self._max_delay and now < arrived + self._max_delay and not self._full(lane):
                due = arrived + self._max_delay if due is None else min(due, arrived + self._max_delay)
            elif first is None or arrived < first:
                chosen, first = key, arrived
        return chosen, due

    def _full(self, lane: deque[_Request]) -> bool:
        return sum(request.rows for request in lane if not request.future.done()) >= self._max_rows

    def _gather(self, key: Hashable) -> Batch | None:
        """Take the next batch out of a lane; None where all of it was given up on."""
        lane = self._lanes[key]
        requests: list[_Request] = []
        rows = 0
        while lane:
            request = lane[0]
            alive = not request.future.done()
            if alive and requests and rows + request.rows > self._max_rows:
                break
            lane.popleft()
            self._waiting -= 1
            if alive:
                requests.append(request)
                rows += request.rows
            else:
                self.rows -= request.rows
        if not lane:
            del self._lanes[key]
        return Batch(requests, rows) if requests else None

    def _wake_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()

        def wake() -> None:
            self._timer = None
            self._dispatch(loop)

        self._due = due
        self._timer = loop.call_at(due, wake)

    def _compute(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        """In a thread: compute a batch, and where that fails each request alone."""
        batch.thread = threading.get_ident()
        outcomes = _outcomes(batch)
        try:
            loop.call_soon_threadsafe(self._finish, loop, batch, outcomes)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: Batch, outcomes: Sequence[_Outcome]) -> None:
        self._idle += 1
        self.running.discard(batch)
        self.rows -= batch.rows
        for request, outcome in zip(batch.requests, outcomes, strict=True):
            if request.future.done():
                continue
            if isinstance(outcome, BaseException):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)
        if self._waiting < len(batch.requests) > 1:
            self._holding += 1
            self._dispatch_after(loop, _TURNS)
        else:
            self._dispatch(loop)

    def _dispatch_after(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._dispatch_after, loop, turns - 1)
        else:
            self._holding -= 1
            self._dispatch(loop)


def _expire(future: asyncio.Future[Tensors]) -> None:
    if not future.done():
        future.set_exception(
            DeadlineExceeded("the model did not answer in time; send fewer rows, or raise the timeout")
        )


def _outcomes(batch: Batch) -> list[_Outcome]:
    """Return outputs or an error for each request; one that can't be computed does not take the others along."""
    requests = batch.requests
    if len(requests) > 1:
        outputs = _together(batch)
        if outputs is not None:
            return outputs
    outcomes: list[_Outcome] = []
    for request in requests:
        if request.future.done():  # given up on since the batch began
            outcomes.append(asyncio.CancelledError())
            continue
        try:
            outcomes.append(request.context.run(request.compute, request.tensors))
        except BaseException as exc:
            outcomes.append(exc)
    return outcomes


def _together(batch: Batch) -> list[_Outcome] | None:
    """Return every request's rows of one computation; None where that fails or does not give one output a row."""
    requests = batch.requests
    columns = zip(*(request.tensors for request in requests), strict=True)
    try:
        outputs = requests[0].compute(tuple(np.concatenate(column) for column in columns))
    except (RequestError, MemoryError):
        return None  # somebody's rows are wrong, or all of them too many: each alone, then
    if any(output.shape[:1] != (batch.rows,) for output in outputs):
        return None
    ends = list(itertools.accumulate(request.rows for request in requests))
    return [
        tuple(output[end - request.rows : end] for output in outputs)
        for request, end in zip(requests, ends, strict=True)
    ]
