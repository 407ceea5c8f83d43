"""Inference requests in which all but the numbers came before, byte for byte: only the numbers are read.

A client sends the same names, shapes and datatypes again and again. Of a request that the general way (request.py,
bind.py) has read and answered, the text before and after its numbers is remembered: another with the same text around
numbers in the same brackets means the same. So does the text around the answer's numbers. What is remembered is only
what is plainly that; for all else the general way decides, as it does for the first request of a kind.
"""

from __future__ import annotations

import re
import weakref
from typing import NamedTuple

import numpy as np
import orjson

from modelyard_runtime.formats.base import Array, Rows, RowsModel, all_finite
from modelyard_runtime.protocols.numbers import FloatParser
from modelyard_runtime.protocols.v2.bind import bind_inputs
from modelyard_runtime.protocols.v2.request import InferRequest
from modelyard_runtime.serving.registry import ServedModel

__all__ = ["Enclosed", "Envelope", "Envelopes"]

_MAX_BYTES = 32 * 1024
"""Of longer requests, the numbers are most of the work."""
_MAX_ENVELOPES = 64
_DATA = b'"data"'
_ID = re.compile(rb'"id"\s*:\s*"([ !#-\[\]-~]*)"')
"""An id in plain ASCII, without escapes."""
_NUMBERS = re.compile(rb"\[[\[\]0-9.eE+\-,\s]*\]")
_OF_NUMBERS = b"0123456789.eE+- \t\r\n"
"""What a list of numbers has beside its brackets and commas."""


class _Form(NamedTuple):
    """The text of an answer around its id and its numbers, for predictions of one dtype and shape."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    before_id: bytes
    before_data: bytes
    after_data: bytes


class Envelope:
    """What a request means whatever its numbers are, and the text of its answer around the predictions."""

    __slots__ = ("_form", "after", "brackets", "id", "served", "shape", "single_precision")

    def __init__(
        self,
        served: ServedModel,
        *,
        after: bytes,
        brackets: bytes,
        id: str | None,
        shape: tuple[int, ...],
        single_precision: bool,
    ) -> None:
        """`brackets` is all of the numbers' text that is not of a number; `id` the one that stands in `after`."""
        self.served = weakref.ref(served)  # a version that is gone must not stay in memory for this
        self.after = after
        self.brackets = brackets
        self.id = id
        self.shape = shape
        self.single_precision = single_precision
        self._form: _Form | None = None

    def keep_form(self, text: bytes, predictions: Array, data: bytes) -> None:
        """Take note of an answer without id: `text`, in which `predictions` are `data`."""
        end, outputs = text.rfind(data), text.find(b',"outputs":')
        self._form = _Form(
            predictions.dtype, predictions.shape, text[:outputs], text[outputs:end], text[end + len(data) :]
        )

    def answer(self, predictions: Array, data: bytes, request_id: str | None) -> bytes | None:
        """Return the text of an answer; None where its form is not known."""
        form = self._form
        if form is None or form.dtype != predictions.dtype or form.shape != predictions.shape:
            return None
        about = b"" if request_id is None else b',"id":' + orjson.dumps(request_id)
        return b"".join((form.before_id, about, form.before_data, data, form.after_data))


class Enclosed(NamedTuple):
    """What a request with a known envelope asks: predictions for `rows`, of shape (rows, features)."""

    envelope: Envelope
    rows: Rows
    id: str | None


class Envelopes:
    """The envelopes of the last requests, a bounded number. For the event loop's thread."""

    def __init__(self, parser: FloatParser) -> None:
        """`parser` is that of the same thread."""
        self._parser = parser
        self._known: dict[tuple[str, bytes], Envelope] = {}
        self._misses = 0
        """Requests that were read the general way, since one that was not."""

    def read(self, body: bytes, served: ServedModel) -> Enclosed | None:
        """Return what a request in JSON asks of `served`, or None: read it the general way, and `learn` from it."""
        found = _split(body)
        if found is None:
            return None
        before, request_id, start = found
        envelope = self._known.get((served.name, before))
        if envelope is None or envelope.served() is not served or not body.endswith(envelope.after):
            return None
        text = body[start : len(body) - len(envelope.after)]
        if text.translate(None, _OF_NUMBERS) != envelope.brackets:
            return None
        values = self._parser.numbers(text)
        if values is None or len(values) != envelope.shape[0] * envelope.shape[1]:
            return None  # [] has the brackets of [1]
        if envelope.single_precision:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(np.float64)
            if not all_finite(values):
                return None
        self._misses = 0
        return Enclosed(envelope, values.reshape(envelope.shape), envelope.id if request_id is None else request_id)

    def learn(self, body: bytes, served: ServedModel, request: InferRequest) -> Envelope | None:
        """Remember the envelope of a request that was read the general way; return it where it is plain enough.

        Of clients whose text is never the same, ever fewer requests are looked at.
        """
        self._misses += 1
        if self._misses & (self._misses - 1) or not _is_plain(request, served):
            return None
        found = _split(body)
        if found is None:
            return None
        before, request_id, start = found
        numbers = _NUMBERS.match(body, start)
        if numbers is None:
            return None
        (given,) = request.inputs.values()
        bound, _ = bind_inputs(served.model, request.inputs)
        (rows,) = bound.values()
        envelope = Envelope(
            served,
            after=body[numbers.end() :],
            brackets=numbers[0].translate(None, _OF_NUMBERS),
            id=request.id,
            shape=rows.shape,
            single_precision=given.dtype == np.float32,
        )
        if rows.ndim != 2 or not _holds(before, request_id, envelope):
            return None
        if len(self._known) >= _MAX_ENVELOPES:
            self._known.clear()
        self._known[served.name, before] = envelope
        return envelope


def _split(body: bytes) -> tuple[bytes, str | None, int] | None:
    """Return the text before a request's numbers without its id, the id, and where the numbers begin.

    The id is None where there is none before the numbers, or one with escapes.
    """
    if len(body) > _MAX_BYTES:
        return None
    data = body.find(_DATA)
    start = body.find(b"[", data)
    if data < 0 or start < 0:
        return None
    before = body[:start]
    place = before.find(b'"id"')
    if place >= 0 and (named := _ID.match(before, place)):
        return before[: named.start(1)] + before[named.end(1) :], named[1].decode(), start
    return before, None, start


def _is_plain(request: InferRequest, served: ServedModel) -> bool:
    """Whether a request asks for all that a model of rows of numbers gives, and for nothing else."""
    if request.outputs or request.parameters or len(request.inputs) != 1:
        return False
    (given,) = request.inputs.values()
    return (
        given.dtype in (np.float32, np.float64)
        and given.size > 0
        and not served.model.text_features
        and getattr(type(served.model), "infer", None) is RowsModel.infer
    )


def _holds(before: bytes, request_id: str | None, envelope: Envelope) -> bool:
    """Whether what was cut out is indeed the data of the only input, and the id of the request.

    With other things put there, the document must have changed there: keys can stand twice, or somewhere else.
    """
    probe = before + b"[]" + envelope.after
    other = envelope.id
    if request_id is not None:
        other = f"{request_id}-"
        place = _ID.match(before, before.find(b'"id"'))
        if place is None:
            return False
        probe = before[: place.start(1)] + other.encode() + before[place.start(1) :] + b"[]" + envelope.after
    document = orjson.loads(probe)
    return bool(document["inputs"][0].get("data") == [] and document.get("id") == other)
