"""Download one file over https: streamed, retried with backoff, never over plain http, certificates always checked."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO

from modelyard_runtime.artifacts.copy import Budget, stream_to_file
from modelyard_runtime.artifacts.uri import ArtifactURI
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed

__all__ = ["download"]

_CHUNK = 1024 * 1024
_ATTEMPTS = 5
_FIRST_PAUSE = 0.5  # seconds; doubles with each attempt
_SOCKET_TIMEOUT = 30.0  # seconds without a byte
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Transient(Exception):
    """Worth another attempt."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only: the standard handler would go to http and ftp as well."""

    def redirect_request(  # noqa: PLR0917 -- the standard library's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            raise LoadFailed(f"{req.host} redirects to another scheme than https; give the final https uri")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(
    uri: ArtifactURI, target: Path, limit: int, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[str, int]:
    """Download `uri` to the new file `target`; return its lower-case hex sha256 and size in bytes.

    Certificates are checked against the system's authorities, or SSL_CERT_FILE. Server errors, timeouts and broken
    connections are retried; `sleep` waits in between. Raises ArtifactNotFound (404, 410), AccessDenied (401, 403, an
    untrusted certificate), LoadFailed (more than `limit` bytes, or no success after the last attempt).
    """
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _HttpsOnly()
    )
    for attempt in range(_ATTEMPTS):
        try:
            return _attempt(opener, uri, target, limit)
        except _Transient as exc:
            target.unlink(missing_ok=True)
            if attempt == _ATTEMPTS - 1:
                raise LoadFailed(f"{uri.text}: {exc}, {_ATTEMPTS} times; check the server, then try again") from None
            sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _attempt(opener: urllib.request.OpenerDirector, uri: ArtifactURI, target: Path, limit: int) -> tuple[str, int]:
    try:
        # Identity: a transparently decompressed file would not have the digest that its owner computed.
        headers = {"Accept-Encoding": "identity", "User-Agent": "modelyard"}
        request = urllib.request.Request(uri.text, headers=headers)  # noqa: S310 -- parse_uri allowed https alone
        with opener.open(request, timeout=_SOCKET_TIMEOUT) as response:
            announced = response.headers.get("Content-Length")
            sha256, size = stream_to_file(_chunks(response), target, Budget.of(limit))
    except urllib.error.HTTPError as exc:
        exc.close()
        _raise_for_status(uri, exc.code)
    except urllib.error.URLError as exc:
        if isinstance(exc.reason, ssl.SSLCertVerificationError):
            raise AccessDenied(
                f"{uri.text}: the certificate is not trusted ({exc.reason.verify_message}); "
                "give the authority's file in SSL_CERT_FILE"
            ) from None
        raise _Transient(f"no connection ({exc.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as exc:
        raise _Transient(f"the connection broke ({type(exc).__name__})") from None
    except ValueError:
        # A host that is no name (idna), or a Location that is no URL.
        raise LoadFailed(f"{uri.text}: it, or what it redirects to, is not a proper https uri; correct it") from None
    if announced is not None and announced.isdigit() and int(announced) != size:
        # http.client ends a read quietly when the peer closes early.
        raise _Transient(f"the connection broke after {size} of {announced} bytes")
    return sha256, size


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    return iter(lambda: response.read(_CHUNK), b"")


def _raise_for_status(uri: ArtifactURI, status: int) -> None:
    if status in (404, 410):
        raise ArtifactNotFound(f"{uri.text} answers {status}: nothing is there; check the uri and that it was uploaded")
    if status in (401, 403):
        raise AccessDenied(f"{uri.text} answers {status}: reading it is not allowed; make it readable from here")
    if status in _RETRIED_STATUS:
        raise _Transient(f"the server answers {status}")
    raise LoadFailed(f"{uri.text} answers {status}; check the uri")
