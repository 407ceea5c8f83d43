"""JSON whose bulk is numbers, read into a buffer of floats without an object for each.

A parser that makes a Python float of every number, and an array of those, takes three to four times as long. Only what
is plainly good is read this way: numbers alone, in a list or in rows of one length. For everything else the result is
None, and orjson decides, with errors that name what was wrong. So nothing is accepted here that it refuses: simdjson
takes the same texts, but for a byte order mark, which is left to orjson too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import simdjson

from modelyard_runtime.formats.base import Array

__all__ = ["NumberReader"]

_T = TypeVar("_T")
_MAX_BYTES = 256 * 1024
"""Above this the parser would keep too much memory: it takes fourteen times the text."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class NumberReader:
    """Reads objects of JSON in which lists of numbers are; for one thread alone, as it uses its memory again."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def object_with_rows(self, body: bytes, field: str) -> dict[str, Any] | None:
        """Return an object whose `field` is rows, as floats of shape (rows, columns); None: read it otherwise.

        The other fields are as Python has them.
        """
        return self._guarded(body, lambda document: _with_rows(document, field, body.count(b"[")))

    def rows(self, text: bytes) -> Array | None:
        """Return a list of rows as an array of floats, of shape (rows, columns); None: read it otherwise."""
        return self._guarded(text, lambda document: _rows(document, text.count(b"[")))

    def object_with_tensors(self, text: bytes) -> dict[str, Any] | None:
        """Return an inference request whose inputs have `data` as floats, of shape (elements,).

        None: read it otherwise, as one with inputs that are not FP32 or FP64.
        """
        return self._guarded(text, lambda document: _with_tensors(document, text.count(b"[")))

    def _guarded(self, text: bytes, read: Callable[[Any], _T]) -> _T | None:
        # What is escaped could hold a bracket that is not there to be counted.
        if len(text) > _MAX_BYTES or b"\\" in text or text.startswith(_BYTE_ORDER_MARK):
            return None
        try:
            return read(self._parser.parse(text))
        except (ValueError, RuntimeError, TypeError, KeyError, IndexError):
            return None  # no JSON, or not of this form; UnicodeDecodeError is a ValueError


def _rows(document: Any, brackets: int) -> Array | None:
    values, lists = _floats(document)
    # Each bracket is accounted for: there is no list within a row, whose numbers would be taken for the row's.
    return values if values is not None and values.ndim == 2 and brackets == lists else None


def _with_rows(document: Any, field: str, brackets: int) -> dict[str, Any] | None:
    found = _others(document, field)
    if found is None:
        return None
    rows = _rows(document[field], brackets - _lists(found))
    return None if rows is None else {**found, field: rows}


def _with_tensors(document: Any, brackets: int) -> dict[str, Any] | None:
    found = _others(document, "inputs")
    if found is None:
        return None
    seen = 1 + _lists(found)
    inputs = []
    for tensor in document["inputs"]:
        described = _others(tensor, "data")
        if described is None or described.get("datatype") not in ("FP32", "FP64"):
            return None
        values, lists = _floats(tensor["data"])
        if values is None or (values.ndim > 1 and described.get("shape") != list(values.shape)):
            return None
        seen += lists + _lists(described)
        described["data"] = values.reshape(-1)
        inputs.append(described)
    if seen != brackets:
        return None
    found["inputs"] = inputs
    return found


def _others(document: Any, field: str) -> dict[str, Any] | None:
    """Return an object's fields but one; None where it has that one never, or any field twice: the last would count."""
    if not isinstance(document, simdjson.Object):
        return None
    names = list(document.keys())
    if field not in names or len(set(names)) != len(names):
        return None
    return {name: _plain(document[name]) for name in names if name != field}


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _floats(values: Any) -> tuple[Array | None, int]:
    """Return the numbers of a list, or of rows of one length, and how many lists they stand in."""
    if not isinstance(values, simdjson.Array) or not len(values):
        return None, 0
    flat = np.frombuffer(values.as_buffer(of_type="d"))
    if not isinstance(values[0], simdjson.Array):
        # Lists among the numbers have brackets of their own, and make the count wrong.
        return (flat, 1) if len(values) == len(flat) else (None, 0)
    rows: list[Any] = list(values)
    width = len(rows[0])
    # What has no length is no row either: a TypeError.
    if not width or len(flat) != len(rows) * width or any(len(row) != width for row in rows):
        return None, 0
    return flat.reshape(len(rows), width), 1 + len(rows)


def _lists(value: Any) -> int:
    """Return how many brackets open in a value's JSON, those in its text among them."""
    if isinstance(value, str):
        return value.count("[")
    if isinstance(value, dict):
        return sum(_lists(name) + _lists(item) for name, item in value.items())
    return 1 + sum(map(_lists, value)) if isinstance(value, list) else 0
