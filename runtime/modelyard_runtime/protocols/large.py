"""Very large JSON, parsed in a thread and in pieces.

A parser holds the interpreter's lock for as long as it runs: half a second and more for 30 MB, in whichever thread.
In pieces, health and other clients are answered between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from modelyard_runtime.protocols.inputs import parse_object

__all__ = ["LARGE_BYTES", "parse_large"]

LARGE_BYTES = 256 * 1024
"""Bodies of more bytes than this are parsed in a thread: a few milliseconds of the event loop's time."""
_PIECE = 128 * 1024
_HEAD = re.compile(rb'\s*\{\s*"instances"\s*:\s*\[')


def parse_large(body: bytes) -> dict[str, Any]:
    """Return what `parse_object` returns, and raise what it raises; to be called in a thread.

    A body that begins with its instances is cut after rows: where every piece is a list of values, and the rest
    completes the object, then so is the whole, and the rows are those of the pieces, one after the other. All other
    bodies are parsed as a whole.
    """
    head = _HEAD.match(body)
    found = _in_pieces(body, head.end()) if head is not None else None
    return parse_object(body) if found is None else found


def _in_pieces(body: bytes, start: int) -> dict[str, Any] | None:
    instances: list[Any] = []
    try:
        for begin, end in _pieces(body, start):
            instances += orjson.loads(b"[%b]" % body[begin:end])
            start = end + 1
        rest = body[start:]
        if b"instances" in rest or b"\\" in rest:
            return None  # perhaps the same field again, of which the last would count
        request = orjson.loads(b'{"instances":[' + rest)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(request, dict):
        return None
    instances += request["instances"]
    request["instances"] = instances
    return request


def _pieces(body: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Give the beginning and the end of each piece but the last: up to the end of a row that a comma follows."""
    while (end := body.find(b"],", start + _PIECE)) != -1:
        yield start, end + 1
        start = end + 2
