"""Very large JSON, parsed in a thread and in pieces.

A parser holds the interpreter's lock for as long as it runs: half a second and more for 30 MB, in whichever thread.
In pieces, health and other clients are answered between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.formats.base import Array
from modelyard_runtime.protocols.json_numbers import NumberReader

__all__ = ["object_in_pieces"]

_PIECE = 128 * 1024
_HEAD_AGAIN = b'{"instances":['
_HEAD = re.compile(rb'\s*\{\s*"instances"\s*:\s*\[')


def object_in_pieces(body: bytes) -> dict[str, Any] | None:
    """Return an object that begins with its `instances`; None: parse it as a whole. To be called in a thread.

    It is cut after rows: where every piece is a list of values, and the rest completes the object, so is the whole, and
    the rows are those of the pieces, one after the other: as an array where all are numbers, as lists else.
    """
    head = _HEAD.match(body)
    if head is None:
        return None
    return _rows_in_pieces(body, head.end(), NumberReader()) or _lists_in_pieces(body, head.end())


def _rows_in_pieces(body: bytes, start: int, parser: NumberReader) -> dict[str, Any] | None:
    """Return the object where all its instances are rows of numbers, of one length."""
    parts: list[Array] = []
    for begin, end in _pieces(body, start):
        rows = parser.rows(b"[%b]" % body[begin:end])
        if rows is None:
            return None
        parts.append(rows)
        start = end + 1
    rest = body[start:]
    if b"instances" in rest or not _goes_on(rest):
        return None
    request = parser.object_with_rows(_HEAD_AGAIN + rest, "instances")
    if request is None:
        return None
    parts.append(request["instances"])
    if len({rows.shape[1] for rows in parts}) > 1:
        return None
    request["instances"] = np.concatenate(parts)
    return request


def _lists_in_pieces(body: bytes, start: int) -> dict[str, Any] | None:
    instances: list[Any] = []
    try:
        for begin, end in _pieces(body, start):
            instances += orjson.loads(b"[%b]" % body[begin:end])
            start = end + 1
        rest = body[start:]
        if b"instances" in rest or b"\\" in rest or not _goes_on(rest):
            return None  # perhaps the same field again, of which the last would count
        request = orjson.loads(_HEAD_AGAIN + rest)
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


def _goes_on(rest: bytes) -> bool:
    """Whether a row follows the comma after which the last piece was cut: a comma before the end is no JSON."""
    return not rest.lstrip().startswith(b"]")
