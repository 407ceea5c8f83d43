"""Heads of requests that came before: most clients send the same one again and again, but for the body's length.

The very same bytes mean the very same, so the parser need not see them again, where it stands between two requests.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from modelyard_runtime.http.response import Header, Reply

__all__ = ["DirectRoute", "KnownHead", "body_after", "remembered"]

_MAX_BYTES = 4096
"""The longest head that is remembered."""
_DIGITS = 9
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=[ \t]*\r\n[^ \t])", re.IGNORECASE)
_ENCODING = re.compile(rb"\r\ntransfer-encoding", re.IGNORECASE)


class DirectRoute(Protocol):
    """A route that makes a whole answer of a whole request."""

    def begin(self, headers: list[Header], body: bytes) -> Coroutine[Any, Any, Reply]:
        """Return what makes the answer and never raises; its first step is taken outside a task."""


class KnownHead(NamedTuple):
    """A head that the parser has read, and what came of it."""

    before: bytes
    after: bytes
    """What stands before and after the number that is the body's length; after it, the body follows."""
    length: int
    """Of the body that it came with, in bytes."""
    route: DirectRoute
    request_id: bytes
    """The one that the client gave; empty where it gave none."""
    traceparent: bytes


def remembered(last: KnownHead, data: bytes) -> KnownHead | None:
    """Return `last`, which the parser has read in `data`, with its text; None unless it is one request and no more."""
    head = data.find(b"\r\n\r\n") + 4
    if head > _MAX_BYTES or len(data) - head != last.length:
        return None
    lengths = list(_LENGTH.finditer(data, 0, head))
    # One length, as the parser has read it, and nothing else that could say where a body ends.
    if len(lengths) != 1 or int(lengths[0][1]) != last.length or _ENCODING.search(data, 0, head):
        return None
    start, end = lengths[0].span(1)
    return last._replace(before=data[:start], after=data[end:head])


def body_after(known: KnownHead, data: bytes) -> bytes | None:
    """Return the body of `data`, which begins as a known head does; None unless it is one request and no more."""
    start = len(known.before)
    end = start
    while data[end : end + 1].isdigit() and end - start <= _DIGITS:
        end += 1
    if not 0 < end - start <= _DIGITS or not data.startswith(known.after, end):
        return None
    body = end + len(known.after)
    return data[body:] if len(data) - body == int(data[start:end]) else None
