"""One TCP connection as a client of HTTP/1.1 sees it: bytes sent as they are, responses read, and how it ended."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["PROBE", "Exchange", "Response", "exchange", "post"]

PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: probe\r\n\r\n"
"""The request that shows whether a connection was kept: its response carries the id."""
_IGNORED = {"date", "x-request-id"}
"""Headers that differ between any two responses."""
_LATENCY = re.compile(rb'"latency_ms":[0-9.]+')
_SECONDS = 20.0


class Response(NamedTuple):
    """A response without what differs between any two: date, id, latency."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Sorted by name."""
    body: bytes


class Exchange(NamedTuple):
    """The responses to what was sent on a connection, and how that ended: `kept` or `closed`."""

    responses: tuple[Response, ...]
    end: str

    @property
    def statuses(self) -> tuple[int, ...]:
        """The responses' statuses."""
        return tuple(response.status for response in self.responses)


def post(path: str, body: bytes | str, *headers: str, version: str = "1.1") -> bytes:
    """Return a POST request with a Content-Length."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"POST {path} HTTP/{version}", "Host: x", *headers, f"Content-Length: {len(content)}"]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + content


def exchange(
    port: int, pieces: Sequence[bytes], *, times: int = 1, half_close: bool = False, head: bool = False
) -> list[Exchange]:
    """Send a request's pieces `times` times on one connection, as long as that is kept; return what came back.

    The server has read each piece before anything else is sent. After the last one, a probe shows whether the
    connection was kept; with `half_close`, the client's side is closed instead, and the connection read to its end.
    `head`: the request is HEAD, whose response has no body.
    """
    exchanges: list[Exchange] = []
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = _Reader(connection)
        for _ in range(times):
            exchanges.append(_exchange(connection, reader, pieces, half_close=half_close, head=head))
            if exchanges[-1].end != "kept":
                break
    return exchanges


def _exchange(
    connection: socket.socket, reader: _Reader, pieces: Sequence[bytes], *, half_close: bool, head: bool
) -> Exchange:
    responses: list[Response] = []
    try:
        server = connection.getpeername()
        for piece in pieces:
            connection.sendall(piece)
            _wait_until_read(connection, server)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.sendall(PROBE)
    except OSError:  # broken, reset, or not connected any more
        pass  # what came before the end is read below
    while True:
        try:
            response, request_id = reader.response(body=not head or bool(responses))
        except (EOFError, ConnectionResetError):  # a server that closes may not have read the probe: a reset
            return Exchange(tuple(responses), "closed")
        if request_id == "probe":
            return Exchange(tuple(responses), "kept")
        responses.append(response)


class _Reader:
    """Reads responses by RFC 9112, section 6.3."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def response(self, *, body: bool) -> tuple[Response, str]:
        """Return the next response and its id. Raises EOFError, ConnectionResetError, AssertionError."""
        head = self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[:-2]
        status = int(lines[0].split(" ", 2)[1])
        assert lines[0].startswith("HTTP/1.1 "), lines
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        named = dict(fields)
        assert not {"content-length", "transfer-encoding"} <= named.keys(), fields
        content = b""
        if not body or status < 200 or status in (204, 304):
            pass
        elif named.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                content += self._exactly(size + 2)[:-2]
            self._exactly(2)
        else:
            content = self._exactly(int(named["content-length"]))
        ignored = set(_IGNORED)
        if _LATENCY.search(content):
            content = _LATENCY.sub(b'"latency_ms":0', content)
            ignored.add("content-length")
        kept = tuple(sorted(field for field in fields if field[0] not in ignored))
        return Response(status, kept, content), named.get("x-request-id", "")

    def _until(self, end: bytes) -> bytes:
        while (place := self._buffer.find(end)) < 0:
            self._more()
        return self._take(place + len(end))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        data = self._connection.recv(262_144)
        if not data:
            assert self._buffer == b"", f"the connection ended within a response: {self._buffer[:500]!r}"
            raise EOFError
        self._buffer += data


_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ESTABLISHED = 1


def _wait_until_read(connection: socket.socket, server: tuple[str, int]) -> None:
    """Wait until the server has read what was sent, so that what is sent next comes in another read."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        end = time.monotonic() + _SECONDS
        while _unread(netlink, connection.getsockname(), server):
            assert time.monotonic() < end, "the server does not read"
            time.sleep(0.0002)


def _unread(netlink: socket.socket, client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Whether the server has unread bytes of a connection; by sock_diag(7), which asks the kernel for one socket."""
    ports = struct.pack(">HH", server[1], client[1])
    addresses = b"".join(socket.inet_aton(address).ljust(16, b"\0") for address in (server[0], client[0]))
    body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    body += ports + addresses + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    netlink.send(struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, 1, 0, 0) + body)
    answer = netlink.recv(8192)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind != _SOCK_DIAG_BY_FAMILY or answer[17] != _ESTABLISHED:
        return False  # it has ended
    unread: int = struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0]
    return unread > 0
