"""Plain HTTP(S) for every source that speaks it: streamed, resumed, certificates always checked, no secret on the way.

Credentials are sent to the host they are for and never follow a redirect to another place. A URI's query can be a
signature: messages and progress lines leave it out.
"""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import IO

from modelyard_runtime.artifacts.transfer import Incoming, Transfer, Transient
from modelyard_runtime.errors import AccessDenied, LoadFailed

__all__ = ["RETRIED_STATUS", "Answer", "Web", "shown"]

_CHUNK = 1024 * 1024
_SOCKET_TIMEOUT = 30.0  # seconds without a byte
_MOST_METADATA = 16 * 1024 * 1024
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """A whole answer: its status, its headers, and a body that is not the artifact itself."""

    status: int
    headers: Message
    body: bytes = field(default=b"", repr=False)


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows redirects from https to https only: the standard handler would go to http and ftp as well."""

    def redirect_request(  # noqa: PLR0917 -- the standard library's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://", "http://") if req.type == "http" else ("https://",)
        if not newurl.lower().startswith(allowed):
            fp.close()
            raise LoadFailed(f"{req.host} redirects to another scheme than https; give the final https uri")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        authorization = req.unredirected_hdrs.get("Authorization")
        if following is not None and authorization and (following.type, following.host) == (req.type, req.host):
            following.add_unredirected_header("Authorization", authorization)
        return following


class Web:
    """Requests with one set of authorities: the system's, or SSL_CERT_FILE's."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context()), _SameSafety()
        )

    def read(self, url: str, headers: Mapping[str, str] | None = None, *, authorization: str = "") -> Answer:
        """Return the answer to GET `url`, whatever its status; server errors and broken connections are retried."""

        def attempt() -> Answer:
            with self._open(url, headers or {}, authorization) as response:
                body = _guarded(lambda: response.read(_MOST_METADATA + 1))
                if len(body) > _MOST_METADATA:
                    raise LoadFailed(f"{shown(url)} answers with more than {_MOST_METADATA} bytes; check the uri")
                if response.status in RETRIED_STATUS:
                    raise Transient(f"the server answers {response.status}")
                return Answer(response.status, response.headers, body)

        return self._transfer.retry(shown(url), attempt)

    def download(
        self,
        url: str,
        incoming: Incoming,
        headers: Mapping[str, str] | None = None,
        *,
        authorization: str = "",
        immutable: bool = False,
    ) -> Answer:
        """Stream `url` into `incoming`, and go on where a broken connection stopped if the server can.

        `immutable`: what is at the url can never change, so that it needs no ETag to go on. Returns the last answer,
        without a body; its status is 200 or 206 unless nothing was written.
        """
        validator = ""

        def attempt() -> Answer:
            nonlocal validator
            asked = dict(headers or {})
            if incoming.size and (validator or immutable):
                asked["Range"] = f"bytes={incoming.size}-"
                if validator:
                    asked["If-Range"] = validator
            elif incoming.size:
                incoming.restart()
            with self._open(url, asked, authorization) as response:
                answer = Answer(response.status, response.headers)
                if response.status in RETRIED_STATUS:
                    raise Transient(f"the server answers {response.status}")
                if response.status == 416 and incoming.size:
                    incoming.restart()
                    raise Transient("the server can't go on where the connection broke")
                if response.status not in (200, 206):
                    return answer
                if response.status == 206 and validator and _validator(response.headers) not in ("", validator):
                    # It ignores If-Range: the rest of another file would be appended to this one's beginning.
                    incoming.restart()
                    validator = ""
                    raise Transient("the file was changed while it was fetched")
                if not (response.status == 206 and _begins_at(response.headers, incoming.size)):
                    if response.status == 206 or incoming.size:
                        incoming.restart()
                    if response.status == 206:
                        raise Transient("the server answers with another part of the file")
                validator = _validator(response.headers)
                _stream(response, incoming)
                return answer

        return self._transfer.retry(shown(url), attempt, incoming)

    def _open(self, url: str, headers: Mapping[str, str], authorization: str) -> http.client.HTTPResponse:
        # Identity: a transparently decompressed file would not have the digest that its owner computed.
        every = {"Accept-Encoding": "identity", "User-Agent": "modelyard", **headers}
        try:
            request = urllib.request.Request(url, headers=every)  # noqa: S310 -- callers give http and https only
            if authorization:
                request.add_unredirected_header("Authorization", authorization)
            response: http.client.HTTPResponse = self._opener.open(request, timeout=_SOCKET_TIMEOUT)
            return response
        except urllib.error.HTTPError as exc:
            # It is an answer like any other: it has `status`, `headers` and `read`.
            return exc  # type: ignore[return-value]
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ssl.SSLCertVerificationError):
                raise AccessDenied(
                    f"{shown(url)}: the certificate is not trusted ({exc.reason.verify_message}); "
                    "give the authority's file in SSL_CERT_FILE"
                ) from None
            raise Transient(f"no connection ({exc.reason})") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as exc:
            if isinstance(exc, http.client.InvalidURL):
                raise LoadFailed(f"{shown(url)} is not a proper uri; correct it") from None
            raise Transient(f"the connection broke ({type(exc).__name__})") from None
        except ValueError:
            # A host that is no name (idna), or a Location that is no URL.
            raise LoadFailed(
                f"{shown(url)}: it, or what it redirects to, is not a proper https uri; correct it"
            ) from None


def shown(url: str) -> str:
    """Return a URL without its query, which may hold a signature."""
    return url.partition("?")[0]


def _stream(response: http.client.HTTPResponse, incoming: Incoming) -> None:
    """Write the body. Raises Transient where it ends before its announced length."""
    announced = response.headers.get("Content-Length")
    begin = incoming.size
    if announced is not None and announced.isdigit():
        incoming.expect(begin + int(announced))
    while chunk := _guarded(lambda: response.read(_CHUNK)):
        incoming.write(chunk)
    # http.client ends a read quietly when the peer closes early.
    if announced is not None and announced.isdigit() and int(announced) != incoming.size - begin:
        raise Transient(f"the connection broke after {incoming.size} of {begin + int(announced)} bytes")


def _guarded(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as exc:
        raise Transient(f"the connection broke ({type(exc).__name__})") from None


def _begins_at(headers: Message, offset: int) -> bool:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return found is not None and int(found.group(1)) == offset


def _validator(headers: Message) -> str:
    """Return what tells whether a file is still the same: a strong ETag, or the date of its last change."""
    etag = headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return "" if etag else headers.get("Last-Modified", "")
