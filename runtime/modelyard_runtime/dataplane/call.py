"""One inference request on its way through the data plane, whatever protocol brought it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from modelyard_runtime.errors import ClientGone
from modelyard_runtime.telemetry.statistics import Stages

if TYPE_CHECKING:
    from modelyard_runtime.dataplane.registry import ServedModel

__all__ = ["Call", "Client", "Trace"]


class Trace(Protocol):
    """A request's place in a distributed trace."""

    def end(self, stages: Stages, status: int) -> None:
        """Have the spans made of a request that is answered now with `status`, in HTTP's terms."""


class Client:
    """The client of one connection, as the queue sees it: requests of one that has left are not computed."""

    __slots__ = ("_queued", "gone")

    def __init__(self) -> None:
        self.gone = False
        """Whether the client has closed its sending side, or the whole connection."""
        self._queued: set[asyncio.Future[Any]] = set()

    def queue(self, future: asyncio.Future[Any]) -> None:
        """Note that the outcome of a request of this client waits for a thread."""
        if self.gone:
            _abandon(future)
        else:
            self._queued.add(future)

    def start(self, future: asyncio.Future[Any]) -> None:
        """Note that a request is computed from now on, or will never be."""
        self._queued.discard(future)

    def leave(self) -> None:
        """Take the requests that wait out of the queue; those that are being computed are finished."""
        self.gone = True
        for future in self._queued:
            _abandon(future)
        self._queued.clear()


class Call(Stages):
    """A request from its arrival to its end: what it asks of which model, until when, and what came of it."""

    __slots__ = ("arrived_at", "client", "deadline", "served", "trace")

    def __init__(
        self,
        protocol: str,
        *,
        now: float,
        timeout: float,
        client: Client | None = None,
        trace: Trace | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`protocol` is the metrics' label; `now` is the event loop's time, `timeout` in seconds from then."""
        super().__init__(clock, protocol)
        self.arrived_at = now
        self.deadline = now + timeout
        """A time of the event loop's clock."""
        self.served: ServedModel | None = None
        """The model that is asked, once it is known."""
        self.client = client
        """None: the protocol itself cancels the requests of a client that leaves."""
        self.trace = trace

    def limit(self, seconds: float) -> None:
        """Shorten the time that the request has to `seconds` from its arrival; never lengthen it."""
        self.deadline = min(self.deadline, self.arrived_at + seconds)


def _abandon(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(ClientGone())
