"""Compressed bodies: requests inflated within a bound, answers deflated for those who ask."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

from modelyard_runtime.dataplane.offload import offload
from modelyard_runtime.errors import BadRequest, BodyTooLarge, UnsupportedEncoding
from modelyard_runtime.http.response import Header, Response

__all__ = ["accepted_encoding", "compress", "content_encoding", "inflate"]

_ENCODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})
"""Encodings of request bodies that `inflate` takes; `deflate` is zlib-wrapped, or bare as some clients send it."""
_INFLATING = 16
_COMPRESSING = 4
"""How many times the work of reading JSON it is to inflate, or to compress, a byte."""
_PIECE = 65536
_MAX_MEMBERS = 10_000
"""Members of one gzip body: honest ones hold 64 KiB each and more, and empty ones would take hours to go through."""
_WORTH_BYTES = 1024
"""Answers below this are sent as they are: they fit into one packet anyway."""


def content_encoding(headers: Iterable[Header]) -> bytes:
    """Return how the request's body is encoded, empty for not at all. Raises UnsupportedEncoding."""
    for name, value in headers:
        if name == b"content-encoding":
            encoding = value.strip().lower()
            if encoding in _ENCODINGS:
                return encoding
            if encoding not in (b"", b"identity"):
                shown = value[:40].decode("latin-1")
                raise UnsupportedEncoding(f"the body is encoded as {shown!r}; send it as it is, or as gzip or deflate")
    return b""


async def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return the body as it was before compression. Raises BodyTooLarge over `limit` bytes, BadRequest.

    At no time is more than `limit` bytes held, whatever the body would inflate to.
    """
    if not encoding:
        return body
    return await offload(len(body) * _INFLATING, _inflate, body, encoding, limit)


def _inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    try:
        if encoding != b"deflate":
            return _members(body, 16 + zlib.MAX_WBITS, limit)
        try:
            return _members(body, zlib.MAX_WBITS, limit)
        except zlib.error:
            return _members(body, -zlib.MAX_WBITS, limit)
    except zlib.error:
        name = encoding.decode("latin-1")
        raise BadRequest(f"the body is not what its Content-Encoding, {name}, says; check the client") from None


def _members(body: bytes, window: int, limit: int) -> bytes:
    """Inflate one stream, or the several that gzip allows one after the other."""
    chunks: list[bytes] = []
    left = limit
    view = memoryview(body)
    for _ in range(_MAX_MEMBERS):
        stream = zlib.decompressobj(window)
        while not stream.eof:
            # In pieces: zlib copies what comes after a stream, and would copy all the rest for each of many members.
            piece = view[:_PIECE]
            if not piece:
                raise zlib.error("the stream ends early")
            chunk = stream.decompress(piece, left + 1)
            left -= len(chunk)
            if left < 0:
                raise BodyTooLarge(f"the body inflates to more than {limit} bytes; send fewer rows a request")
            chunks.append(chunk)
            view = view[len(piece) - len(stream.unused_data) :]
        if not view:
            return b"".join(chunks)
        if window <= zlib.MAX_WBITS:
            raise zlib.error("bytes after the stream")
    raise BadRequest(f"the body has more than {_MAX_MEMBERS} gzip members; compress it as one")


def accepted_encoding(headers: Iterable[Header]) -> bytes:
    """Return `gzip` or `deflate` where Accept-Encoding takes it, the first that is named; else nothing."""
    for name, value in headers:
        if name == b"accept-encoding":
            for part in value.lower().split(b","):
                coding, _, weight = part.partition(b";")
                if coding.strip() in (b"gzip", b"deflate") and weight.replace(b" ", b"") not in (
                    b"q=0",
                    b"q=0.0",
                    b"q=0.00",
                    b"q=0.000",
                ):
                    return coding.strip()
    return b""


async def compress(response: Response, encoding: bytes) -> Response:
    """Return a response whose payload is compressed as `encoding` says, where it is worth it."""
    payload, used = await offload(len(response.payload) * _COMPRESSING, _compress, response.payload, encoding)
    vary = (b"vary", b"accept-encoding")
    encoded = ((b"content-encoding", used),) if used else ()
    return response._replace(headers=(*response.headers, *encoded, vary), payload=payload)


def _compress(payload: bytes, encoding: bytes) -> tuple[bytes, bytes]:
    if len(payload) < _WORTH_BYTES:
        return payload, b""
    if encoding == b"gzip":
        return gzip.compress(payload, compresslevel=1, mtime=0), encoding
    return zlib.compress(payload, level=1), encoding
