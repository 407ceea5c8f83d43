"""From rows in JSON to predictions in JSON: the steps that /predict, /predict/batch and V1 share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import orjson

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.offload import LOOP_BYTES, offload
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest, WrongInput
from modelyard_runtime.formats.base import Array, Model, Rows
from modelyard_runtime.http.response import JSON, Response
from modelyard_runtime.protocols.json_reader import JsonReader, parse_object
from modelyard_runtime.protocols.rows import rows_of_features, rows_of_instances

__all__ = ["MANY_ROWS", "ONE_ROW", "RowForm", "RowProtocol"]


@dataclass(frozen=True)
class RowForm:
    """How rows are asked: one of them, which gets one prediction, or a list of them, which gets a list."""

    field: str
    example: str
    to_rows: Callable[[Model, Any], Rows]
    single: bool


ONE_ROW = RowForm("features", "[1.0, 2.0]", rows_of_features, single=True)
MANY_ROWS = RowForm("instances", "[[1.0, 2.0]]", rows_of_instances, single=False)

Wrap: TypeAlias = Callable[[Call, ServedModel, bytes], bytes]
"""Makes a response's body around the predictions, which are JSON already."""


@dataclass(frozen=True)
class RowProtocol:
    """A protocol of rows in one form, with its own body around the predictions."""

    plane: DataPlane
    reader: JsonReader
    form: RowForm
    wrap: Wrap

    async def respond(self, call: Call, body: bytes) -> Response:
        """Answer with the predictions for the rows in a request's body. Raises RequestError.

        The model is the one that the call has by now, as its path names it; else the one that the body names.
        """
        form = self.form
        request = parse_object(body) if form.single and len(body) <= LOOP_BYTES else await self._parse(body)
        served = call.served
        if served is None:
            served = self.plane.resolve(call, _model_name(request))
        try:
            given = request[form.field]
        except KeyError:
            raise _lacking(form, request) from None
        if len(body) > LOOP_BYTES:
            rows = await offload(len(body), form.to_rows, served.model, given)
        else:
            rows = form.to_rows(served.model, given)
        call.on_parsed(len(rows))
        if _use_cache(request):
            compute = partial(self._compute, call, served, rows)
            predictions = await self.plane.cached(call, served, form.field, {"": rows}, compute)
        else:
            predictions = await self._compute(call, served, rows)
        return Response(200, (JSON,), self.wrap(call, served, predictions))

    async def _parse(self, body: bytes) -> dict[str, Any]:
        return await self.reader.object_with_rows(body)

    async def _compute(self, call: Call, served: ServedModel, rows: Rows) -> bytes:
        """Return the predictions as JSON."""
        predictions = await self.plane.predict(call, served, rows)
        if (size := rows.nbytes + predictions.nbytes) > LOOP_BYTES:
            return await offload(size, _encode, predictions, self.form)
        return _encode(predictions, self.form)


def _lacking(form: RowForm, request: dict[str, Any]) -> BadRequest:
    got = ", ".join(sorted(str(key)[:40] for key in request)[:8]) or "nothing"
    return BadRequest(f'the body lacks {form.field}; it has {got}. Send {{"{form.field}": {form.example}}}')


def _encode(predictions: Array, form: RowForm) -> bytes:
    """Encode predictions in JSON's own types; tolist leaves nothing of numpy, whatever the dtype."""
    values = predictions.tolist()
    return orjson.dumps(values[0] if form.single else values, option=orjson.OPT_SERIALIZE_NUMPY, default=str)


def _model_name(request: dict[str, Any]) -> str | None:
    name = request.get("model_name")
    if name is not None and type(name) is not str:
        raise WrongInput("model_name needs to be a string")
    return name


def _use_cache(request: dict[str, Any]) -> bool:
    """Whether the answer may come from the cache, and go there. Raises WrongInput."""
    use = request.get("use_cache", False)
    if type(use) is not bool:
        raise WrongInput("use_cache needs to be true or false")
    return use
