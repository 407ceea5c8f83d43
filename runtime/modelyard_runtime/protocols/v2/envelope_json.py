"""Envelopes of requests in JSON: the text before and after the numbers, and the brackets between them."""

from __future__ import annotations

import re

import orjson

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.formats.base import Array
from modelyard_runtime.protocols.numbers import FloatParser
from modelyard_runtime.protocols.v2.envelope import Enclosed, Envelope, Known, enclose
from modelyard_runtime.protocols.v2.request import InferRequest

__all__ = ["JsonEnvelopes", "answer_of", "keep_form"]

_MAX_BYTES = 32 * 1024
"""Of longer requests, the numbers are most of the work."""
_DATA = b'"data"'
_ID = re.compile(rb'"id"\s*:\s*"([ !#-\[\]-~]*)"')
"""An id in plain ASCII, without escapes."""
_NUMBERS = re.compile(rb"\[[\[\]0-9.eE+\-,\s]*\]")
_OF_NUMBERS = b"0123456789.eE+- \t\r\n"
"""What a list of numbers has beside its brackets and commas."""


class JsonEnvelopes:
    """The envelopes of the last requests in JSON. For the event loop's thread."""

    def __init__(self, parser: FloatParser) -> None:
        """`parser` is that of the same thread."""
        self._parser = parser
        self._known = Known()
        self._latest: tuple[bytes, Envelope] | None = None
        """The text before the numbers, of a request without id there, and its envelope."""

    def read(self, body: bytes, served: ServedModel) -> Enclosed | None:
        """Return what a request asks of `served`, or None: read it the general way, and `learn` from it."""
        latest = self._latest
        request_id = None
        if latest is not None and latest[1].served() is served and body.startswith(latest[0]):
            envelope, start = latest[1], len(latest[0])
        else:
            found = _split(body)
            if found is None:
                return None
            before, request_id, start = found
            known = self._known.find((served.name, before))
            if known is None or known.served() is not served:
                return None
            envelope = known
            self._latest = (before, envelope) if request_id is None else None
        brackets, after = envelope.frame
        text = body[start : len(body) - len(after)]
        if not body.endswith(after) or text.translate(None, _OF_NUMBERS) != brackets:
            return None
        values = self._parser.numbers(text)
        rows = None if values is None else envelope.rows(values)
        if rows is None:
            return None
        self._known.hit()
        return Enclosed(envelope, served, rows, envelope.id if request_id is None else request_id)

    def learn(self, body: bytes, served: ServedModel, request: InferRequest) -> bool:
        """Remember the envelope of a request that was read the general way, where it is plain; return whether."""
        if request.binary or not self._known.miss() or (envelope := enclose(request, served)) is None:
            return False
        found = _split(body)
        if found is None:
            return False
        before, request_id, start = found
        numbers = _NUMBERS.match(body, start)
        if numbers is None:
            return False
        envelope.frame = (numbers[0].translate(None, _OF_NUMBERS), body[numbers.end() :])
        if not _holds(before, request_id, envelope):
            return False
        self._known.keep((served.name, before), envelope)
        return True


def answer_of(enclosed: Enclosed, predictions: Array, data: bytes) -> bytes | None:
    """Return the answer in which `predictions` are `data`; None where its form is not known yet."""
    about = b"" if enclosed.id is None else b',"id":' + orjson.dumps(enclosed.id)
    return enclosed.envelope.answer((predictions.dtype, predictions.shape), data, about)


def keep_form(envelope: Envelope, text: bytes, predictions: Array, data: bytes) -> None:
    """Take note of the form of an answer without id: `text`, in which `predictions` are `data`."""
    outputs, end = text.find(b',"outputs":'), text.rfind(data)
    kind = (predictions.dtype, predictions.shape)
    envelope.keep_form(kind, text[:outputs], text[outputs:end], text[end + len(data) :])


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


def _holds(before: bytes, request_id: str | None, envelope: Envelope) -> bool:
    """Whether what was cut out is indeed the data of the only input, and the id of the request.

    With other things put there, the document must have changed there: keys can stand twice, or somewhere else.
    """
    other = envelope.id
    if request_id is not None:
        other = f"{request_id}-"
        place = _ID.match(before, before.find(b'"id"'))
        if place is None:
            return False
        before = before[: place.start(1)] + other.encode() + before[place.start(1) :]
    try:
        document = orjson.loads(before + b"[]" + envelope.frame[1])
    except orjson.JSONDecodeError:
        return False  # what looked like numbers stood in a text, for instance
    return bool(document["inputs"][0].get("data") == [] and document.get("id") == other)
