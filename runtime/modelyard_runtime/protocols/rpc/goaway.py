"""Clients of gRPC asked to go elsewhere, ahead of the server's end.

gRPC's own stop sends GOAWAY and in the same moment cancels the calls that it has not handed over yet, and all that
reach it before their clients have read that GOAWAY: under load, each stop loses some. Python's gRPC has no other way to
send one, so it is written here, to the connections of this process: HTTP/2 lets a server say so at any time, between
two frames.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import closing, suppress
from fcntl import ioctl

from modelyard_runtime.serving.drain import refuse_new_connections

__all__ = ["send_clients_elsewhere"]

_LAST_STREAM = 2**31 - 1
_GOAWAY = struct.pack(">HBBBI", 0, 8, 7, 0, 0) + struct.pack(">II", _LAST_STREAM, 0)
"""A frame of 8 bytes, of type 7, without flags, on stream 0: any stream may still be answered, and no error (RFC 9113,
6.8)."""
_FULL_BYTES = 4096
"""Buffers are never that small; one with fewer bytes has room for the rest of a frame, which gRPC has then written."""
_POLL_SECONDS = 0.02


async def send_clients_elsewhere(port: int, seconds: float) -> None:
    """Take no new connections on `port`, send GOAWAY on those that are, and wait until they end, `seconds` at most.

    Calls that have begun are answered. Does nothing where the system does not list a process's files in /proc.
    """
    for listener in _sockets(port):
        with closing(listener), suppress(OSError):
            if _listens(listener):
                refuse_new_connections(listener)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    told: set[object] = set()
    while loop.time() < end:
        # Ahead of the first round too: gRPC's own first frame has to be the first on a new connection.
        await asyncio.sleep(_POLL_SECONDS)
        connected = False
        for connection in _sockets(port):
            with closing(connection), suppress(OSError):  # it may end at any moment
                if _listens(connection):
                    continue
                connected = True
                peer = connection.getpeername()
                if peer not in told and _between_frames(connection):
                    connection.send(_GOAWAY, socket.MSG_DONTWAIT)
                    told.add(peer)
        if not connected:
            return


def _listens(endpoint: socket.socket) -> bool:
    return bool(endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _sockets(port: int) -> Iterator[socket.socket]:
    """Give the TCP sockets of this process at `port`, listening or connected, each to be closed: as a copy."""
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return
    for number in numbers:
        try:
            found = socket.socket(fileno=os.dup(int(number)))
        except OSError:
            continue  # no socket, or gRPC's threads have closed it meanwhile
        is_tcp = found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6)
        if is_tcp and found.getsockname()[1] == port:
            yield found
        else:
            found.close()


def _between_frames(connection: socket.socket) -> bool:
    """Return whether gRPC has no frame half written: it has only where the send buffer is full."""
    (queued,) = struct.unpack("i", ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(queued) < _FULL_BYTES
