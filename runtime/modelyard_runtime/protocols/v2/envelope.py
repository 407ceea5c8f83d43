"""What of an inference request came before, byte for byte, so that only its numbers need to be read.

A client sends the same names, shapes and datatypes again and again. Of a request that the general way (request.py,
bind.py) has read, all but its numbers is remembered, its envelope: another in the same envelope means the same. So does
what stands around the answer's numbers. How to tell the numbers from the rest is each protocol's matter
(envelope_json.py, envelope_binary.py, rpc/envelope.py); for all that has no known envelope the general way decides.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.formats.base import Array, Rows, RowsModel, all_finite
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.request import InferRequest

__all__ = ["Enclosed", "Envelope", "Known", "enclose"]

_MAX_ENVELOPES = 64


class _Form(NamedTuple):
    """An answer without its id and its numbers, for predictions of one kind."""

    kind: Hashable
    before_id: bytes
    before_data: bytes
    after_data: bytes


class Envelope:
    """What a request means whatever its numbers are, and the bytes of its answer around the predictions."""

    __slots__ = ("_form", "binary", "frame", "id", "served", "shape", "single_precision")

    def __init__(self, served: ServedModel, request: InferRequest, shape: tuple[int, ...], *, single: bool) -> None:
        """`shape` is that of the rows, whose numbers are FP32 where they are `single` and FP64 else."""
        self.served = weakref.ref(served)  # a version that is gone must not stay in memory for this
        self.id = request.id
        """Of requests that have one in their frame."""
        self.binary = request.binary
        """Whether the answer's numbers are raw."""
        self.shape = shape
        self.single_precision = single
        self.frame: tuple[bytes, ...] = ()
        """What the request has beside its numbers, as its protocol sees it."""
        self._form: _Form | None = None

    def rows(self, values: Array) -> Rows | None:
        """Return numbers as rows; None where they are too many or few, or not what the datatype can hold."""
        if values.size != self.shape[0] * self.shape[1]:
            return None
        if self.single_precision and values.dtype != np.float32:  # JSON's, which are to fit
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
            if not all_finite(values):
                return None
        return values.astype(np.float64, copy=False).reshape(self.shape)

    def keep_form(self, kind: Hashable, before_id: bytes, before_data: bytes, after_data: bytes) -> None:
        """Take note of what stands around the id and the predictions of an answer, while predictions are of a kind."""
        self._form = _Form(kind, before_id, before_data, after_data)

    def answer(self, kind: Hashable, data: bytes, about: bytes) -> bytes | None:
        """Return the answer in which the predictions are `data`, `about` the id; None where its form is not known."""
        form = self._form
        if form is None or form.kind != kind:
            return None
        return b"".join((form.before_id, about, form.before_data, data, form.after_data))


class Enclosed(NamedTuple):
    """What a request in a known envelope asks of a model: predictions for `rows`, of shape (rows, features)."""

    envelope: Envelope
    served: ServedModel
    rows: Rows
    id: str | None


class Known:
    """The envelopes of the last requests, a bounded number, by what tells them apart. For the event loop's thread."""

    def __init__(self) -> None:
        self._envelopes: dict[Hashable, Envelope] = {}
        self._misses = 0
        """Requests that were read the general way, since one that was not."""

    def find(self, key: Hashable) -> Envelope | None:
        """Return an envelope, whose other parts are yet to be compared."""
        return self._envelopes.get(key)

    def hit(self) -> None:
        """A request was in a known envelope."""
        self._misses = 0

    def miss(self) -> bool:
        """Whether to remember the envelope of a request that was in none; of clients with ever new ones, rarely."""
        self._misses += 1
        return not self._misses & (self._misses - 1)

    def keep(self, key: Hashable, envelope: Envelope) -> None:
        """Remember an envelope."""
        if len(self._envelopes) >= _MAX_ENVELOPES:
            self._envelopes.clear()
        self._envelopes[key] = envelope


def enclose(request: InferRequest, served: ServedModel) -> Envelope | None:
    """Return an envelope for a request that was read the general way.

    None, where it does not plainly ask for all that a model of rows of numbers gives, and for nothing else.
    """
    if request.outputs or request.parameters.keys() - {"binary_data_output"} or len(request.inputs) != 1:
        return None
    (given,) = request.inputs.values()
    model = served.model
    if (
        given.dtype not in (np.float32, np.float64)
        or not given.size
        or model.text_features
        or getattr(type(model), "infer", None) is not RowsModel.infer
    ):
        return None
    ((_, rows),) = bind_inputs(model, request.inputs)[0].items()
    if rows.ndim != 2 or rows.dtype != np.float64:
        return None
    return Envelope(served, request, rows.shape, single=given.dtype == np.float32)
