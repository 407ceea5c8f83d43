"""The datatypes of the Open Inference Protocol, and their forms: JSON, raw little-endian bytes, numpy.

Source: the protocol's "Tensor Data Types" and its binary tensor data extension
(https://github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from modelyard_runtime.errors import BadRequest
from modelyard_runtime.formats.base import Array, all_finite

__all__ = [
    "DATATYPES",
    "as_datatype",
    "check_shape",
    "datatype_of",
    "from_json",
    "from_raw",
    "item_size",
    "to_json",
    "to_raw",
]

_NUMPY = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_BY_NUMPY = {np.dtype(code): name for name, code in _NUMPY.items()}
DATATYPES = (*_NUMPY, "BF16", "BYTES")
_AS_NUMPY = {name: np.dtype(code) for name, code in _NUMPY.items()} | {"BF16": np.dtype(np.float32)}
"""How each datatype of numbers is held."""
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48
"""More than any body has."""


def item_size(datatype: str) -> int | None:
    """Return the bytes of one element in raw form; None for BYTES, whose elements differ."""
    if datatype == "BYTES":
        return None
    return 2 if datatype == "BF16" else np.dtype(_NUMPY[datatype]).itemsize


def datatype_of(values: Array) -> str:
    """Return the datatype that holds an array's values; what has none of its own becomes BYTES."""
    if values.dtype.hasobject:
        return "BYTES"
    return _BY_NUMPY.get(values.dtype) or _BY_NUMPY.get(values.dtype.newbyteorder("<"), "BYTES")


def as_datatype(values: Array, datatype: str) -> Array | None:
    """Return `values` as `datatype`, text as str objects; None where numbers would lose their meaning."""
    if datatype == "BYTES":
        return values if values.dtype.kind == "O" else None
    wanted = _AS_NUMPY[datatype]
    if values.dtype == wanted:
        return values
    if values.dtype.kind == "O" or not np.can_cast(values.dtype, wanted, "same_kind"):
        return None
    with np.errstate(over="ignore"):
        cast = values.astype(wanted)
    if wanted.kind in "iu" and not (np.array_equal(cast, values) and np.array_equal(cast < 0, values < 0)):
        return None  # a shorter type, or one without a sign
    return cast


def from_json(data: Any, datatype: str, shape: tuple[int, ...], name: str, *, missing: bool = False) -> Array:
    """Return a tensor of `shape` from JSON `data`, nested or flat, row-major. Raises BadRequest, naming the tensor.

    Where a value may be `missing`, null is NaN in FP32, FP64 and BYTES. Numbers may be an array of floats already, of
    shape (elements,). Text is of dtype object, holding str. BF16 has no JSON form.
    """
    flat = data if isinstance(data, np.ndarray) else _flatten(data, shape, name)
    count = math.prod(shape)
    if len(flat) != count:
        raise BadRequest(f"input {name} has {len(flat)} elements, and its shape {list(shape)} has {count}")
    if missing and not isinstance(flat, np.ndarray) and None in flat:
        return _with_missing(flat, datatype, name).reshape(shape)
    return _elements(flat, datatype, name).reshape(shape)


def _with_missing(flat: list[Any], datatype: str, name: str) -> Array:
    """Return the elements of a list, NaN for each null."""
    if datatype not in ("FP32", "FP64", "BYTES"):
        raise BadRequest(f"data of input {name} has null, for which {datatype} has no value; send it as FP64")
    filler: Any = "" if datatype == "BYTES" else 0.0
    elements = _elements([filler if item is None else item for item in flat], datatype, name).copy()
    elements[[item is None for item in flat]] = np.nan
    return elements


def _flatten(data: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    if type(data) is not list:
        raise BadRequest(f"data of input {name} needs to be a list")
    seen = [len(data)]
    while data and type(data[0]) is list:
        length = len(data[0])
        if len(seen) == max(len(shape), 1) or any(type(item) is not list or len(item) != length for item in data):
            raise BadRequest(f"data of input {name} is nested in another form than its shape {list(shape)}")
        seen.append(length)
        data = list(chain.from_iterable(data))
    if len(seen) > 1 and len(seen) == len(shape) and seen != list(shape):
        raise BadRequest(f"data of input {name} has the form {seen}, and its shape is {list(shape)}")
    flat: list[Any] = data
    return flat


def _elements(flat: list[Any] | Array, datatype: str, name: str) -> Array:
    if isinstance(flat, np.ndarray):
        return _narrowed(flat, datatype, name)
    if datatype == "BYTES":
        if not all(type(item) is str for item in flat):
            raise BadRequest(f"data of input {name} needs to be strings: its datatype is BYTES")
        text = np.empty(len(flat), dtype=object)
        text[:] = flat
        return text
    if datatype == "BF16":
        raise BadRequest(f"input {name} is BF16, which has no form in JSON; send it as binary data, or as FP32")
    if datatype == "BOOL" and not all(item is True or item is False or item in (0, 1) for item in flat):
        raise BadRequest(f"data of input {name} needs to be true and false: its datatype is BOOL")
    kind = _AS_NUMPY[datatype].kind
    code = "d" if kind == "f" else "Q" if kind == "u" else "q"
    try:
        # array takes numbers alone, where numpy would also read "1" and null; 'q' and 'Q' take whole ones alone.
        values = np.frombuffer(array.array(code, flat or [0]))[: len(flat)] if code == "d" else _whole(code, flat)
    except (TypeError, OverflowError):
        raise BadRequest(f"data of input {name} needs to be numbers that {datatype} can hold") from None
    return _narrowed(values, datatype, name)


def _narrowed(values: Array, datatype: str, name: str) -> Array:
    wanted = _AS_NUMPY[datatype]
    if values.dtype == wanted:
        return values  # JSON has neither NaN nor infinities, and orjson refuses numbers that no double can hold
    result = values
    if values.dtype != wanted:
        with np.errstate(over="ignore"):
            result = values.astype(wanted)
    exact = all_finite(result) if wanted.kind == "f" else (result == values).all()
    if not exact:
        raise BadRequest(f"data of input {name} has numbers that {datatype} can't hold")
    return result


def _whole(code: str, flat: list[Any]) -> Array:
    return np.array(array.array(code, flat), dtype=np.uint64 if code == "Q" else np.int64)


def from_raw(raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Return a tensor of `shape` from little-endian row-major bytes. Raises BadRequest, naming the tensor.

    BYTES is a little-endian u32 length before each element, and becomes str objects.
    """
    count = math.prod(shape)
    size = item_size(datatype)
    if size is None:
        return _text(raw, count, name).reshape(shape)
    if len(raw) != count * size:
        raise BadRequest(f"input {name} has {len(raw)} bytes, and {datatype} of shape {list(shape)} has {count * size}")
    if datatype == "BF16":
        wide: Array = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
        return np.asarray(wide.view(np.float32).reshape(shape))
    if datatype == "BOOL":
        # Any other byte than 0 and 1 would be a boolean that numpy can't compare.
        return np.asarray((np.frombuffer(raw, dtype=np.uint8) != 0).reshape(shape))
    return np.frombuffer(raw, dtype=_NUMPY[datatype]).reshape(shape)


def _text(raw: bytes | memoryview, count: int, name: str) -> Array:
    if count * 4 > len(raw):
        raise BadRequest(f"input {name} has {len(raw)} bytes, too few for {count} elements of BYTES")
    text = np.empty(count, dtype=object)
    offset = 0
    try:
        for index in range(count):
            (length,) = struct.unpack_from("<I", raw, offset)
            offset += 4 + length
            if offset > len(raw):
                raise BadRequest(f"input {name} ends within its element {index}")
            text[index] = str(raw[offset - length : offset], "utf-8")
    except struct.error:
        raise BadRequest(f"input {name} has fewer than {count} elements of BYTES") from None
    except UnicodeDecodeError:
        raise BadRequest(f"input {name} has an element that is not UTF-8, and the model takes text") from None
    if offset != len(raw):
        raise BadRequest(f"input {name} has more bytes than {count} elements of BYTES")
    return text


def to_raw(values: Array) -> bytes:
    """Return the raw form of a tensor: little-endian, row-major; of anything but numbers, each as UTF-8 text."""
    datatype = datatype_of(values)
    if datatype != "BYTES":
        return np.ascontiguousarray(values, dtype=_NUMPY[datatype]).tobytes()
    parts: list[bytes] = []
    for item in _texts(values):
        encoded = item.encode("utf-8", "surrogateescape")
        parts += (struct.pack("<I", len(encoded)), encoded)
    return b"".join(parts)


def to_json(values: Array) -> orjson.Fragment:
    """Return the JSON form of a tensor: a flat list. Raises BadRequest for numbers that JSON does not have."""
    return orjson.Fragment(_json(values))


def _json(values: Array) -> bytes:
    if values.size == 1 and (values.dtype.kind in "iub" or (values.dtype == np.float64 and all_finite(values))):
        return orjson.dumps([values.item()])  # what most models answer to one row, in a fourth of the time
    if datatype_of(values) == "BYTES":
        return orjson.dumps(_texts(values))
    if values.dtype.kind == "f" and not all_finite(values):
        raise BadRequest("the output is not a finite number; the input is out of range (binary outputs can hold it)")
    flat = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == np.float16:
        flat = flat.astype(np.float32)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(values: Array) -> list[str]:
    items: Sequence[Any] = values.reshape(-1).tolist()
    return [
        item if type(item) is str else item.decode("utf-8", "replace") if type(item) is bytes else str(item)
        for item in items
    ]


def _is_length(size: Any) -> bool:
    return type(size) is int and 0 <= size < _MAX_ELEMENTS


def check_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Return a tensor's shape from what a client sent. Raises BadRequest."""
    if type(shape) is not list or len(shape) > _MAX_DIMENSIONS or not all(map(_is_length, shape)):
        raise BadRequest(f"shape of input {name} needs to be a list of at most {_MAX_DIMENSIONS} whole numbers")
    if 0 in shape and math.prod(size for size in shape if size) >= _MAX_ELEMENTS:
        # No data, and yet no array: numpy leaves the zeros out when it counts the bytes.
        raise BadRequest(f"input {name} is empty; send at least one row")
    return tuple(shape)
