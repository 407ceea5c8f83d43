"""A few requests to the API server, over the standard library: faster than starting kubectl for each."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import ClusterError

__all__ = ["Api", "ApiError"]

_CONTENT_TYPE: Final = {"PATCH": "application/strategic-merge-patch+json"}


class ApiError(ClusterError, OSError):
    """The API server answered with an error, or not at all (`status` is 0)."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"the API server says {status}: {message}" if status else message)


@dataclass(frozen=True)
class Api:
    """Speaks JSON with one API server as one user."""

    url: str
    token: str
    ca_file: Path

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = 30) -> Any:
        """Send one request; return the answer's JSON, or its text where it is none.

        Raises:
            ApiError: the answer is an error, or there is none.
        """
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            request.add_header("Content-Type", _CONTENT_TYPE.get(method, "application/json"))
        # No proxy: one that is set for the outside would be asked for loopback addresses as well.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self.ca_file))),
        )
        try:
            with opener.open(request, data, timeout=timeout) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, error.read().decode(errors="replace")[:2000]) from None
        except OSError as error:
            raise ApiError(0, f"{self.url} does not answer: {error}") from error
        return json.loads(text) if text.startswith("{") else text
