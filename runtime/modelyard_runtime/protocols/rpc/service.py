"""inference.GRPCInferenceService: each method's answer, with errors as gRPC's own status codes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from modelyard_runtime.errors import BadRequest, RequestError
from modelyard_runtime.observe.metrics import UNRESOLVED
from modelyard_runtime.observe.statistics import Stages
from modelyard_runtime.protocols.hot import Parts
from modelyard_runtime.protocols.large import LARGE_BYTES
from modelyard_runtime.protocols.rpc.messages import SERVICE, Messages
from modelyard_runtime.protocols.rpc.tensors import parameters_of, read_request, write_response
from modelyard_runtime.protocols.v2.describe import (
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
    statistics_of,
)
from modelyard_runtime.protocols.v2.infer import compute_outputs, resolve_version
from modelyard_runtime.protocols.v2.routes import installed_version
from modelyard_runtime.serving.registry import ServedModel

__all__ = ["InferenceService"]

_logger = logging.getLogger(__name__)
_PROTOCOL = "grpc"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OUTCOMES = {**_CODES, 200: grpc.StatusCode.OK, 499: grpc.StatusCode.CANCELLED}
_Method = Callable[..., Awaitable[Any]]


class InferenceService:
    """The methods of the service; `handlers()` is what a grpc.aio server takes."""

    def __init__(self, parts: Parts, messages: Messages) -> None:
        self._parts = parts
        self._messages = messages
        self.calls = 0
        """That are being answered."""
        self._held: asyncio.Event | None = None

    @contextmanager
    def hold_answers(self) -> Iterator[None]:
        """Meanwhile, calls that are done wait with their answers: nothing is written but what was before."""
        self._held = asyncio.Event()
        try:
            yield
        finally:
            self._held.set()
            self._held = None

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return a handler of each method. Bytes that are no message are the client's error, not the server's."""
        methods: dict[str, _Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._model_load,
            "RepositoryModelUnload": self._model_unload,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._guarded(name, method), response_serializer=lambda message: message.SerializeToString()
                )
                for name, method in methods.items()
            },
        )

    def _guarded(self, name: str, method: _Method) -> _Method:
        request_class = self._messages.methods[name][0]
        infer = name == "ModelInfer"

        async def answer(data: bytes, context: Any) -> Any:
            self.calls += 1
            self._parts.in_flight += infer
            try:
                try:
                    request = request_class.FromString(data)
                except DecodeError:
                    raise BadRequest(f"the request is not a {request_class.DESCRIPTOR.full_name}") from None
                response = await (method(request, context, len(data)) if infer else method(request, context))
                if self._held is not None:
                    await self._held.wait()
                return response
            except RequestError as exc:
                if exc.retry_after is not None:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", str(exc.retry_after * 1000)),))
                error = (_CODES.get(exc.status, grpc.StatusCode.INTERNAL), exc.message)
            except Exception:
                _logger.exception("%s failed", name)
                error = (grpc.StatusCode.INTERNAL, "the server failed; its log says why")
            finally:
                self.calls -= 1
                self._parts.in_flight -= infer
            return await context.abort(*error)

        return answer

    def _response(self, method: str, /, **fields: Any) -> Any:
        return self._messages.methods[method][1](**fields)

    def _served(self, request: Any) -> ServedModel:
        return resolve_version(self._parts.registry, request.name, request.version or None)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return self._response("ServerLive", live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        ready = self._parts.registry.ready and not self._parts.draining()
        return self._response("ServerReady", ready=ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        try:
            self._served(request)
        except RequestError as exc:
            if exc.status != 503:
                raise
            return self._response("ModelReady", ready=False)
        return self._response("ModelReady", ready=True)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        about = server_metadata(installed_version(), changeable=self._parts.repository.changeable)
        return self._response("ServerMetadata", **about)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        metadata = model_metadata(self._served(request))
        for tensor in metadata["outputs"]:
            tensor.pop("parameters", None)  # gRPC's form has no place for them
        return self._response("ModelMetadata", **metadata)

    async def _model_config(self, request: Any, context: Any) -> Any:
        return self._response("ModelConfig", config=model_config(self._served(request)))

    async def _model_statistics(self, request: Any, context: Any) -> Any:
        statistics = await self._parts.totals.statistics()
        found = statistics_of(self._parts.registry, statistics, request.name or None, request.version or None)
        return self._response("ModelStatistics", model_stats=found)

    async def _repository_index(self, request: Any, context: Any) -> Any:
        return self._response(
            "RepositoryIndex", models=repository_index(self._parts.registry, ready_only=request.ready)
        )

    async def _model_load(self, request: Any, context: Any) -> Any:
        self._check_change(request, context)
        await self._parts.repository.load(request.model_name, parameters_of(request.parameters))
        return self._response("RepositoryModelLoad")

    async def _model_unload(self, request: Any, context: Any) -> Any:
        self._check_change(request, context)
        await self._parts.repository.unload(request.model_name, parameters_of(request.parameters))
        return self._response("RepositoryModelUnload")

    def _check_change(self, request: Any, context: Any) -> None:
        given = {key: value for key, value in context.invocation_metadata() if key == "authorization"}
        self._parts.repository.check(given.get("authorization", ""))
        if request.repository_name:
            raise BadRequest("there is one repository, and it has no name; leave repository_name empty")

    async def _model_infer(self, request: Any, context: Any, size: int) -> Any:
        """`size`: the bytes of the request; those of a large one are read, and its answer written, in a thread."""
        start = time.perf_counter()
        stages = Stages()
        parts = self._parts
        trace = parts.tracing.begin_rpc(context.invocation_metadata()) if parts.tracing is not None else None
        served: ServedModel | None = None
        status = 500
        try:
            served = resolve_version(parts.registry, request.model_name, request.model_version or None)
            large = size > LARGE_BYTES
            arrived = asyncio.get_running_loop().time()
            left = context.time_remaining()
            asked = await asyncio.to_thread(read_request, request) if large else read_request(request)
            outputs = await compute_outputs(
                parts,
                served,
                asked,
                deadline=arrived + (parts.timeout if left is None else min(left, parts.timeout)),
                arrived=arrived,
                stages=stages,
            )
            response = self._response("ModelInfer")
            if large:
                await asyncio.to_thread(write_response, response, served, asked, outputs, cached=stages.cached)
            else:
                write_response(response, served, asked, outputs, cached=stages.cached)
            status = 200
            return response
        except RequestError as exc:
            status = 400 if exc.status == 422 else exc.status
            raise
        except asyncio.CancelledError:
            status = 499  # the client gave up, as proxies put it
            raise
        finally:
            name, version = (served.name, served.version) if served is not None else (UNRESOLVED, UNRESOLVED)
            parts.metrics.observe(name, version, _PROTOCOL, status, time.perf_counter() - start)
            if trace is not None:
                code = _OUTCOMES.get(status, grpc.StatusCode.INTERNAL)
                trace.end(served, stages, code, protocol=_PROTOCOL, service=SERVICE, method="ModelInfer")
            if served is not None:
                parts.statistics.add(name, version, stages, success=status == 200)
