"""Asks a running installation over its control socket. Standard library only: every command starts through here."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from modelyard_local.errors import LocalError, NotRunning

__all__ = ["Client", "Refused"]

_SECONDS = 30.0


class Refused(LocalError):
    """The installation said no; `errors` holds what is wrong with a manifest, each with path and message."""

    def __init__(self, message: str, status: int, errors: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.status, self.errors = status, errors


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


class Client:
    """Requests to one installation; each raises NotRunning or Refused."""

    def __init__(self, socket_path: Path) -> None:
        self._socket = socket_path

    def get(self, path: str, **query: str | None) -> dict[str, Any]:
        """Ask for something."""
        given = urlencode({name: value for name, value in query.items() if value})
        return self._ask("GET", f"{path}?{given}" if given else path, None)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask to do something."""
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except TimeoutError:
            raise LocalError("modelyard local does not answer: see its output, or up.log in the state folder") from None
        except (OSError, HTTPException, ValueError):
            raise NotRunning(
                f"modelyard local does not run on {self._socket.parent}: start it with `modelyard local up`"
            ) from None
        finally:
            connection.close()
        if response.status >= 400:
            raise Refused(str(answer.get("error", response.reason)), response.status, answer.get("errors", []))
        return answer
