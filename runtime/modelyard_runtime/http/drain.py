"""The end of a server without a lost request: what each signal means, and how a listener closes without a reset.

SIGTERM: `/health/ready` fails at once, every answer closes its connection, new connections are still accepted for the
drain delay, and for longer while a router goes on checking this server: its view of the cluster comes from DNS, which
may be half a minute old, and this may be the only server that it knows. Then the listener closes, what runs is
finished, idle connections are closed. A second signal, or Ctrl-C as the first, skips the delays; a third gives up on
what runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import socket
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

__all__ = ["Checks", "Drain", "Phase", "refuse_new_connections"]


_ROUTER_SECONDS = 3.0
"""Routers check every second; after three without a check they have dropped us."""
_PATIENCE_SECONDS = 5.0
"""With the timeout, how long a router that goes on sending is waited for; the pod's grace period has 5 s more."""
_LOOK_SECONDS = 0.1


class Phase(IntEnum):
    """How far the end has come; it only ever grows."""

    SERVING = 0
    DRAINING = 1
    HURRIED = 2
    FORCED = 3


class Checks(Protocol):
    """Where it is noted when a router last asked for our health: several processes may share it."""

    checked: float


class _OwnChecks:
    checked = -math.inf


class Drain:
    """The phase of this process, and waits that end early when the next phase comes. For the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, checks: Checks | None = None) -> None:
        """`checks` are shared with other workers: a router that asks one of them has all of them on its list."""
        self.phase = Phase.SERVING
        self._clock = clock
        self._checks = checks or _OwnChecks()
        self._left = False
        self._changed = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether the server is on its way out."""
        return self.phase is not Phase.SERVING

    def on_router_check(self) -> None:
        """Take note that a router asked for our health: it has us on its list."""
        self._checks.checked = self._clock()

    @property
    def routed(self) -> bool:
        """Whether a router has us on its list still."""
        return self._clock() - self._checks.checked < _ROUTER_SECONDS

    def on_terminate(self) -> None:
        """SIGTERM: drain; when draining already, the next phase."""
        self._enter(Phase(min(self.phase + 1, Phase.FORCED)))

    def on_interrupt(self) -> None:
        """SIGINT: somebody at a terminal waits, so drain without delays; when hurried already, the next phase."""
        self._enter(Phase(min(max(self.phase + 1, Phase.HURRIED), Phase.FORCED)))

    async def until_left(self, delay: float, timeout: float) -> None:
        """Wait until listeners may close: for SIGTERM, the drain delay, and while a router has us on its list.

        `delay` and `timeout` (of a request) in seconds. All that wait, each listener of the process, leave together.
        """
        await self.wait_for(Phase.DRAINING)
        await self.wait_for(Phase.HURRIED, delay)
        end = self._clock() + timeout + _PATIENCE_SECONDS
        while self.routed and not self._left and self._clock() < end:
            if await self.wait_for(Phase.HURRIED, _LOOK_SECONDS):
                break
        self._left = True  # a check that comes now must not hold up the listeners that are yet to look

    async def wait_for(self, phase: Phase, timeout: float | None = None) -> bool:
        """Wait until `phase` is reached or `timeout` seconds have passed; return whether it is reached."""
        try:
            async with asyncio.timeout(timeout):
                while self.phase < phase:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        # Wake those who wait now; those who come later wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()


_SO_ATTACH_FILTER = 26
_TCP_FLAGS = 13  # offset in the TCP header, where the packet begins for a filter on a TCP socket
_SYN = 0x02


def refuse_new_connections(listener: socket.socket) -> None:
    """Let the kernel drop new connection attempts to `listener`, while those that it has taken can still be accepted.

    Closing a listener resets the connections that wait in its backlog, and their clients have a request lost. With
    this filter, a client that comes now retries its SYN within a second and is then refused cleanly, or reaches
    another server. Does nothing where the system has no such filters: the delay before has made the case rare.
    """
    code = [
        (0x30, 0, 0, _TCP_FLAGS),  # ldb [13]
        (0x45, 0, 1, _SYN),  # jset #SYN: drop, else keep
        (0x06, 0, 0, 0),  # ret #0
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in code))
    head = struct.pack("HP", len(code), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError:
        return
