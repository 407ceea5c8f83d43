"""Envelopes of requests with a binary tensor: their JSON, after which there is nothing but the numbers."""

from __future__ import annotations

import numpy as np

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.formats.base import Array
from modelyard_runtime.protocols.v2.envelope import Enclosed, Envelope, Known, enclose
from modelyard_runtime.protocols.v2.request import InferRequest

__all__ = ["BinaryEnvelopes", "answer_of", "keep_form"]

_MAX_BYTES = 4096
"""Of a request's JSON; longer ones are none of the usual."""


class BinaryEnvelopes:
    """The envelopes of the last requests with a binary tensor. For the event loop's thread."""

    def __init__(self) -> None:
        self._known = Known()

    def read(self, body: bytes, header_length: int, served: ServedModel) -> Enclosed | None:
        """Return what a request asks of `served`, or None: read it the general way, and `learn` from it.

        The first `header_length` bytes are its JSON.
        """
        envelope = self._known.find((served.name, body[: min(header_length, _MAX_BYTES)]))
        if envelope is None or envelope.served() is not served:
            return None
        raw = memoryview(body)[header_length:]
        dtype = np.dtype("<f4" if envelope.single_precision else "<f8")
        if len(raw) % dtype.itemsize:
            return None
        rows = envelope.rows(np.frombuffer(raw, dtype))
        if rows is None:
            return None
        self._known.hit()
        return Enclosed(envelope, served, rows, envelope.id)

    def learn(self, body: bytes, header_length: int, served: ServedModel, request: InferRequest) -> bool:
        """Remember the envelope of a request that was read the general way, where it is plain; return whether."""
        if not 0 < header_length <= _MAX_BYTES or not request.binary:
            return False
        if not self._known.miss() or (envelope := enclose(request, served)) is None:
            return False
        self._known.keep((served.name, body[:header_length]), envelope)
        return True


def answer_of(enclosed: Enclosed, predictions: Array, data: bytes) -> bytes | None:
    """Return the answer in which `predictions` are `data`, raw; None where its form is not known yet."""
    return enclosed.envelope.answer(_kind(predictions, data), data, b"")


def keep_form(envelope: Envelope, answer: bytes, predictions: Array, data: bytes) -> None:
    """Take note of the form of an answer: JSON, then `predictions` as `data`, raw."""
    envelope.keep_form(_kind(predictions, data), answer[: len(answer) - len(data)], b"", b"")


def _kind(predictions: Array, data: bytes) -> tuple[object, ...]:
    """Return what an answer's JSON depends on."""
    return predictions.dtype, predictions.shape, len(data)
