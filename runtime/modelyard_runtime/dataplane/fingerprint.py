"""The fingerprint of inputs, which tells them apart in a cache, and the bytes that arrays take."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable, Mapping

from modelyard_runtime.formats.base import Array

__all__ = ["bytes_of", "fingerprint"]

_DIGEST_BYTES = 4096
"""Of content over this, its SHA-256 stands in the key: a large input must not take the place of many responses."""
_ARRAY_BYTES = 256
"""The bytes of an array beside its values: the object, its shape, its name."""


def fingerprint(inputs: Mapping[str, Array]) -> tuple[Hashable, int]:
    """Return a key that is equal for equal inputs alone, and the bytes that it takes.

    Names, order, types, shapes and values count; values by their bits, so that 0.0 is not -0.0, and NaN is NaN.
    """
    parts = tuple((name, values.dtype.str, values.shape, *_content(values)) for name, values in inputs.items())
    return parts, sum(_ARRAY_BYTES + len(part[-1]) for part in parts)


def _content(values: Array) -> tuple[int, bytes]:
    # An array of objects holds addresses. Among values, Python takes 1, 1.0 and True for the same; their text does not.
    content = repr(values.ravel().tolist()).encode() if values.dtype.hasobject else values.tobytes()
    return len(content), content if len(content) <= _DIGEST_BYTES else hashlib.sha256(content).digest()


def bytes_of(values: Array) -> int:
    """Return the bytes that an array takes, those of its objects as well."""
    objects = sum(map(sys.getsizeof, values.ravel().tolist())) if values.dtype.hasobject else 0
    return _ARRAY_BYTES + values.nbytes + objects
