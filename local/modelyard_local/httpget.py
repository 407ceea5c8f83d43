"""One GET over HTTP/1.1, as a kubelet sends it: for probes, hooks and the router's sidecar."""

from __future__ import annotations

import asyncio
import io
from http.client import HTTPException, HTTPResponse
from typing import Any

__all__ = ["HttpFailed", "http_get"]

_LONGEST = 1 << 20


class HttpFailed(OSError):
    """No answer, or none that is HTTP."""


class _Received:
    """What HTTPResponse asks of a socket, over bytes that are there already."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, _mode: str) -> io.BytesIO:
        """Return the answer as a file."""
        return io.BytesIO(self._answer)


async def http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Return the status and body of a GET on a connection of its own. The caller sets a time limit.

    Raises:
        HttpFailed: nobody listens, the connection broke off, or the answer is not HTTP.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: modelyard-local\r\nConnection: close\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise HttpFailed(f"{host}:{port}: {error.strerror or error}") from None
    try:
        writer.write(request.encode())
        answer = b""
        while len(answer) < _LONGEST and (chunk := await reader.read(_LONGEST)):
            answer += chunk
    except OSError as error:
        raise HttpFailed(f"{host}:{port}{path}: {error.strerror or error}") from None
    finally:
        writer.close()
    received: Any = _Received(answer)
    response = HTTPResponse(received)
    try:
        response.begin()
        return response.status, response.read()
    except (HTTPException, ValueError) as error:
        raise HttpFailed(f"{host}:{port}{path}: no HTTP answer ({type(error).__name__})") from None
    finally:
        response.close()
