"""Envelopes of requests over gRPC: messages whose last bytes are the numbers, and all before them is the same.

Protocol Buffers are written in the order of their fields: raw contents end a message, and an id is among its first
fields. What is not is read the general way (tensors.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.errors import RequestError
from modelyard_runtime.formats.base import Array
from modelyard_runtime.protocols.grpc.messages import read_message
from modelyard_runtime.protocols.grpc.tensors import read_request
from modelyard_runtime.protocols.v2.envelope import Enclosed, Envelope, Known, enclose
from modelyard_runtime.protocols.v2.request import InferRequest

__all__ = ["MessageEnvelopes", "answer_of", "keep_form"]

_MAX_BYTES = 256 * 1024
"""What is read without a thread."""
_BEGINNING = 16
"""Bytes of the input's name and datatype: fewer than there are before any numbers."""
_BEFORE_ID = (0x0A, 0x12)
_ID = 0x1A
"""Tags of the first fields, text all of them, in requests (the model, its version, the id) and answers alike."""
_SHORT = 128
"""Below this, a length is one byte."""


class MessageEnvelopes:
    """The envelopes of the last requests over gRPC. For the event loop's thread."""

    def __init__(self, registry: Registry, request_class: Any) -> None:
        """`request_class` is the message's, ModelInferRequest."""
        self._registry = registry
        self._request_class = request_class
        self._known = Known()

    def read(self, data: bytes) -> Enclosed | None:
        """Return what a request asks, or None: read it the general way, and `learn` from it."""
        start, end = _id_of(data)
        envelope = self._known.find(_key(data, start, end))
        if envelope is None:
            return None
        served = envelope.served()
        numbers = len(data) - _bytes_of(envelope)
        if (
            served is None
            or not self._registry.is_active(served)
            or data[:start] + data[end:numbers] != envelope.frame[0]
        ):
            return None
        try:
            request_id = data[start + 2 : end].decode()
        except UnicodeDecodeError:
            return None
        rows = envelope.rows(np.frombuffer(data, "<f4" if envelope.single_precision else "<f8", offset=numbers))
        if rows is None:
            return None
        self._known.hit()
        return Enclosed(envelope, served, rows, request_id or None)

    def learn(self, data: bytes, served: ServedModel, message: Any, request: InferRequest) -> bool:
        """Remember the envelope of a request that was read the general way, where it is plain; return whether."""
        if len(data) > _MAX_BYTES or message.model_name != served.name or not self._known.miss():
            return False
        envelope = enclose(request, served)
        if envelope is None:
            return False
        start, end = _id_of(data)
        envelope.frame = (data[:start] + data[end : len(data) - _bytes_of(envelope)],)
        if not self._holds(data[:start], data[end : len(data) - _bytes_of(envelope)], request):
            return False
        self._known.keep(_key(data, start, end), envelope)
        return True

    def _holds(self, before_id: bytes, after_id: bytes, request: InferRequest) -> bool:
        """Whether the id and the numbers are where they are taken to be: of others put there, others are read."""
        ((name, given),) = request.inputs.items()
        numbers = (np.arange(given.size) + 0.5).astype(given.dtype)
        try:
            probe = before_id + _field_of("other") + after_id + numbers.tobytes()
            read = read_request(read_message(self._request_class, probe))
        except RequestError:
            return False
        found = read.inputs.get(name)
        return (
            found is not None
            and read.id == "other"
            and read._replace(inputs={}, id=request.id) == request._replace(inputs={})
            and np.array_equal(found, numbers.reshape(given.shape))
        )


def answer_of(enclosed: Enclosed, predictions: Array, data: bytes) -> bytes | None:
    """Return the answer in which `predictions` are `data`, raw; None where its form is not known yet."""
    about = b"" if enclosed.id is None else _field_of(enclosed.id)
    return enclosed.envelope.answer(_kind(predictions, data), data, about)


def keep_form(envelope: Envelope, answer: bytes, predictions: Array, data: bytes) -> None:
    """Take note of the form of an answer without id: `answer`, in which `predictions` are `data`, raw."""
    start, _ = _id_of(answer)
    if answer.endswith(data):
        envelope.keep_form(_kind(predictions, data), answer[:start], answer[start : len(answer) - len(data)], b"")


def _kind(predictions: Array, data: bytes) -> tuple[object, ...]:
    """Return what an answer's form depends on: before the data, there is its length."""
    return predictions.dtype, predictions.shape, len(data)


def _bytes_of(envelope: Envelope) -> int:
    rows, features = envelope.shape
    return rows * features * (4 if envelope.single_precision else 8)


def _key(data: bytes, start: int, end: int) -> tuple[int, bytes]:
    """Return what tells most messages apart, whatever their ids and numbers."""
    return len(data) - (end - start), data[:start] + data[end : end + _BEGINNING]


def _id_of(data: bytes) -> tuple[int, int]:
    """Return where the field of the id begins and ends; there is none where both are the same."""
    start, size = 0, len(data)
    for tag in _BEFORE_ID:
        if start + 1 < size and data[start] == tag and data[start + 1] < _SHORT:
            start += 2 + data[start + 1]
    if start + 1 < size and data[start] == _ID and data[start + 1] < _SHORT:
        return start, start + 2 + data[start + 1]
    return min(start, size), min(start, size)


def _field_of(request_id: str) -> bytes:
    text = request_id.encode()
    return bytes((_ID, len(text))) + text
