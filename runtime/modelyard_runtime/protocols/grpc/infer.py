"""Inference over gRPC: ModelInfer, from bytes to numpy to bytes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import RequestError
from modelyard_runtime.protocols.grpc.envelope import MessageEnvelopes, answer_of, keep_form
from modelyard_runtime.protocols.grpc.messages import SERVICE, read_message
from modelyard_runtime.protocols.grpc.status import CODES
from modelyard_runtime.protocols.grpc.tensors import read_request, write_response
from modelyard_runtime.protocols.large import LARGE_BYTES
from modelyard_runtime.protocols.route import Parts
from modelyard_runtime.protocols.v2.bind import present
from modelyard_runtime.protocols.v2.datatypes import to_raw
from modelyard_runtime.protocols.v2.envelope import Enclosed
from modelyard_runtime.protocols.v2.infer import compute_outputs, resolve_version
from modelyard_runtime.protocols.v2.request import InferRequest
from modelyard_runtime.telemetry.metrics import UNRESOLVED
from modelyard_runtime.telemetry.statistics import Stages

__all__ = ["Inference"]

_PROTOCOL = "grpc"
_OUTCOMES = {**CODES, 200: grpc.StatusCode.OK, 499: grpc.StatusCode.CANCELLED}


class Inference:
    """Answers ModelInfer."""

    def __init__(self, parts: Parts, request_class: Any, response_class: Any) -> None:
        """The classes are those of the method's messages."""
        self._parts = parts
        self._request_class = request_class
        self._response_class = response_class
        self._envelopes = MessageEnvelopes(parts.registry, request_class)

    async def answer(self, data: bytes, context: Any) -> bytes:
        """Return a ModelInferResponse for a ModelInferRequest, both in bytes. Raises RequestError."""
        parts = self._parts
        start = time.perf_counter()
        stages = Stages()
        trace = parts.tracing.begin_rpc(context.invocation_metadata()) if parts.tracing is not None else None
        served: ServedModel | None = None
        status = 500
        parts.in_flight += 1
        try:
            enclosed = self._envelopes.read(data)
            if enclosed is not None:
                served = enclosed.served
                response = await self._answer_enclosed(enclosed, context, stages)
            else:
                request = read_message(self._request_class, data)
                served = resolve_version(parts.registry, request.model_name, request.model_version or None)
                response = await self._answer(data, request, served, context, stages)
            status = 200
            return response
        except RequestError as exc:
            status = 400 if exc.status == 422 else exc.status
            raise
        except asyncio.CancelledError:
            status = 499  # the client gave up, as proxies put it
            raise
        finally:
            parts.in_flight -= 1
            name, version = (served.name, served.version) if served is not None else (UNRESOLVED, UNRESOLVED)
            parts.metrics.observe(name, version, _PROTOCOL, status, time.perf_counter() - start)
            if trace is not None:
                code = _OUTCOMES.get(status, grpc.StatusCode.INTERNAL)
                trace.end(served, stages, code, protocol=_PROTOCOL, service=SERVICE, method="ModelInfer")
            if served is not None:
                parts.statistics.add(name, version, stages, success=status == 200)

    async def _answer(self, data: bytes, message: Any, served: ServedModel, context: Any, stages: Stages) -> bytes:
        """Answer the general way; large messages are read, and their answers written, in a thread."""
        large = len(data) > LARGE_BYTES
        arrived, deadline = self._times(context)
        request = await asyncio.to_thread(read_request, message) if large else read_request(message)
        outputs = await compute_outputs(self._parts, served, request, deadline=deadline, arrived=arrived, stages=stages)
        response = self._response_class()
        if large:
            await asyncio.to_thread(write_response, response, served, request, outputs, cached=stages.cached)
        else:
            self._envelopes.learn(data, served, message, request)
            write_response(response, served, request, outputs, cached=stages.cached)
        return _bytes(response)

    async def _answer_enclosed(self, enclosed: Enclosed, context: Any, stages: Stages) -> bytes:
        served, envelope = enclosed.served, enclosed.envelope
        _, deadline = self._times(context)
        stages.on_parsed(len(enclosed.rows))
        predictions = await self._parts.compute.predict(
            served.model, enclosed.rows, deadline=deadline, on_start=stages.on_start
        )
        stages.on_computed()
        data = to_raw(predictions)
        if envelope.binary and (known := answer_of(enclosed, predictions, data)) is not None:
            return known
        outputs = present(served.model, {"prediction": predictions})
        request = InferRequest({}, id=enclosed.id, binary=envelope.binary)
        if envelope.binary and outputs["prediction"] is predictions:
            plain = self._response_class()
            write_response(plain, served, request._replace(id=None), outputs, cached=None)
            keep_form(envelope, _bytes(plain), predictions, data)
        response = self._response_class()
        write_response(response, served, request, outputs, cached=None)
        return _bytes(response)

    def _times(self, context: Any) -> tuple[float, float]:
        """Return when the request arrived and when it is to be answered, in the event loop's time."""
        arrived = asyncio.get_running_loop().time()
        timeout = self._parts.timeout
        left = context.time_remaining()
        return arrived, arrived + (timeout if left is None else min(left, timeout))


def _bytes(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized
