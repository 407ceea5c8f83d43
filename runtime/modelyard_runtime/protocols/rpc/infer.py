"""Inference over gRPC: ModelInfer, from bytes to numpy to bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.offload import LOOP_BYTES, offload
from modelyard_runtime.errors import ClientGone, RequestError
from modelyard_runtime.protocols.rpc.messages import SERVICE, read_message
from modelyard_runtime.protocols.rpc.status import CODES
from modelyard_runtime.protocols.rpc.tensors import read_request, write_response
from modelyard_runtime.protocols.v2.infer import compute_outputs

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["Inference"]

_OUTCOMES = {**CODES, 200: grpc.StatusCode.OK}


class Inference:
    """Answers ModelInfer."""

    def __init__(self, plane: DataPlane, tracing: Tracing | None, request_class: Any, response_class: Any) -> None:
        """The classes are those of the method's messages; without `tracing`, requests are not traced."""
        self._plane = plane
        self._tracing = tracing
        self._request_class = request_class
        self._response_class = response_class

    async def answer(self, data: bytes, context: Any) -> bytes:
        """Return a ModelInferResponse for a ModelInferRequest, both in bytes. Raises RequestError."""
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin_rpc(context.invocation_metadata(), SERVICE, "ModelInfer", _code_of)
        call = self._plane.begin("grpc", trace=trace)
        status = 500
        try:
            response = await self._respond(data, call, context)
            status = 200
            return response
        except RequestError as exc:
            status = 400 if exc.status == 422 else exc.status
            raise
        except asyncio.CancelledError:
            status = ClientGone.status
            raise
        finally:
            self._plane.end(call, status)

    async def _respond(self, data: bytes, call: Call, context: Any) -> bytes:
        """Answer a call; large messages are read, and their answers written, in a thread."""
        message = read_message(self._request_class, data)
        served = self._plane.resolve(call, message.model_name, message.model_version)
        left = context.time_remaining()
        if left is not None:
            call.limit(left)
        large = len(data) > LOOP_BYTES
        request = await offload(len(data), read_request, message) if large else read_request(message)
        outputs = await compute_outputs(self._plane, call, served, request)
        response = self._response_class()
        if large:
            await offload(len(data), write_response, response, served, request, outputs, cached=call.cached)
        else:
            write_response(response, served, request, outputs, cached=call.cached)
        serialized: bytes = response.SerializeToString()
        return serialized


def _code_of(status: int) -> grpc.StatusCode:
    return _OUTCOMES.get(status, grpc.StatusCode.INTERNAL)
