"""Sending a gRPC server's clients elsewhere without a lost call, before the server itself is stopped.

gRPC's own stop sends GOAWAY and takes no more calls in the same moment: those that clients have sent by then end as
CANCELLED (grpc/grpc issues 24237 and 41785). HTTP/2 (RFC 9113, 6.8) asks for a first GOAWAY that names the largest of
all streams, after which a server goes on taking what comes until the client has seen it. gRPC sends that one only to
connections of a great age, and has no call for it. So we send it ourselves: 17 bytes on the connection's own socket.
Of the other ways (tests/soak/test_grpc_stop.py, docs/serving.md), one alone loses no call of clients without health
checks: connections that live for less than the drain delay, which would all be made anew every few seconds.

Nothing may be half written then. Answers are held for a moment, and a connection on which something is on its way
still is left to gRPC's stop; what gRPC writes by itself meanwhile is small, and goes out in one piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import struct
import termios
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from modelyard_runtime.http.drain import refuse_new_connections

__all__ = ["Calls", "close_listener", "send_clients_away"]

_ACCEPT_SECONDS = 0.2
"""As for HTTP: handshakes under way come to their end, and are accepted."""
_QUIET_SECONDS = 0.005
_LOOK_SECONDS = 0.02
_IDLE_SECONDS = 1.0

_GOAWAY = b"".join(
    (
        (8).to_bytes(3),  # bytes that follow the frame's head
        bytes([7, 0]),  # the type, and no flags
        bytes(4),  # of the connection, which is stream 0
        (2**31 - 1).to_bytes(4),  # the last stream: whichever
        bytes(4),  # no error
    )
)
_BYTES_ACKED = 120  # offset of tcpi_bytes_acked in Linux' struct tcp_info, 8 bytes
_SETTINGS_BYTES = 9
"""A server's first frame has so many at least, and must be the first."""


class Calls(Protocol):
    """The calls of a server."""

    @property
    def calls(self) -> int:
        """Calls that are being answered."""

    def hold_answers(self) -> AbstractContextManager[None]:
        """Keep answers back while the block runs."""


async def send_clients_away(port: int, calls: Calls, *, end: float, wait: Callable[[float], Awaitable[bool]]) -> None:
    """Close the listener of a port, and have each client take its next calls elsewhere; return when they have gone.

    Clients that were told and then stay, without a call, are not waited for. `end` is when to give up, in monotonic
    seconds; `wait` waits for seconds, and returns whether to give up at once. Linux only.
    """
    await close_listener(port)
    told: set[object] = set()
    last_busy = time.monotonic()
    while time.monotonic() < end:
        with _Sockets(port) as sockets:
            clients, quiet = sockets.clients, sockets.quiet
        if not clients or time.monotonic() - last_busy > _IDLE_SECONDS:
            return
        if quiet - told:
            with calls.hold_answers():
                await asyncio.sleep(_QUIET_SECONDS)
                with _Sockets(port) as sockets:
                    gone = {client for client in quiet & sockets.quiet - told if sockets.send_away(client)}
            told |= gone
        if calls.calls:
            last_busy = time.monotonic()
        if await wait(_LOOK_SECONDS):
            return


async def close_listener(port: int) -> None:
    """Have new connections to a port refused, after those that the kernel has taken are accepted."""
    with _Sockets(port) as sockets:
        sockets.refuse()
    await asyncio.sleep(_ACCEPT_SECONDS)
    with _Sockets(port) as sockets:
        sockets.stop_listening()


class _Sockets:
    """The sockets of this process with one local port. They are copies: close them at once, or no connection ends."""

    def __init__(self, port: int) -> None:
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[object, socket.socket] = {}
        for descriptor, found in _sockets_of(port):
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._listeners[descriptor] = found
                continue
            try:
                self._connections[found.getpeername()] = found
            except OSError:  # it has ended
                found.close()

    def __enter__(self) -> _Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        for found in (*self._listeners.values(), *self._connections.values()):
            found.close()

    def refuse(self) -> None:
        """Take no new connection attempts, while those that the kernel has taken can still be accepted."""
        for listener in self._listeners.values():
            refuse_new_connections(listener)

    def stop_listening(self) -> None:
        """Have new connections refused: in the listener's place, gRPC gets a socket on which nothing ever happens."""
        for descriptor, listener in self._listeners.items():
            with socket.socket(listener.family, socket.SOCK_STREAM) as nothing:
                os.dup2(nothing.fileno(), descriptor, inheritable=False)

    @property
    def clients(self) -> set[object]:
        """The addresses of those that are connected."""
        return set(self._connections)

    @property
    def quiet(self) -> set[object]:
        """Those that have received all that was written, the server's first frame at least."""
        return {address for address, connection in self._connections.items() if _has_all(connection)}

    def send_away(self, address: object) -> bool:
        """Tell a client that new calls belong elsewhere, and return whether that was possible."""
        try:
            return self._connections[address].send(_GOAWAY) == len(_GOAWAY)
        except (KeyError, OSError):
            return False


def _sockets_of(port: int) -> list[tuple[int, socket.socket]]:
    found: list[tuple[int, socket.socket]] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # one of these is the folder's own
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                found.append((int(name), copy))
            else:
                copy.close()
    return found


def _has_all(connection: socket.socket) -> bool:
    try:
        (unsent,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except OSError:
        return False
    (acked,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return bool(unsent == 0 and acked >= _SETTINGS_BYTES)
