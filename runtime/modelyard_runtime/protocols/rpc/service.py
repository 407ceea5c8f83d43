"""inference.GRPCInferenceService: each method's answer but inference's, with errors as gRPC's own status codes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from modelyard_runtime.dataplane.dataplane import DataPlane
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import BadRequest, RequestError
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.protocols.rpc.infer import Inference
from modelyard_runtime.protocols.rpc.messages import SERVICE, Messages, read_message
from modelyard_runtime.protocols.rpc.status import CODES
from modelyard_runtime.protocols.rpc.tensors import parameters_of
from modelyard_runtime.protocols.v2.describe import (
    installed_version,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
    statistics_of,
)
from modelyard_runtime.protocols.v2.repository import Repository
from modelyard_runtime.telemetry.totals import Totals

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["InferenceService"]

_logger = logging.getLogger(__name__)
_Method = Callable[[Any, Any], Awaitable[Any]]
"""From a request's message and its context to the answer's message."""
_Answer = Callable[[bytes, Any], Awaitable[bytes]]
"""The same in bytes."""


class InferenceService:
    """The methods of the service; `handlers()` is what a grpc.aio server takes."""

    def __init__(
        self,
        plane: DataPlane,
        totals: Totals,
        repository: Repository,
        drain: Drain,
        messages: Messages,
        *,
        tracing: Tracing | None,
    ) -> None:
        """Without `tracing`, requests are not traced."""
        self._plane = plane
        self._registry = plane.registry
        self._totals = totals
        self._repository = repository
        self._drain = drain
        self._messages = messages
        self._tracing = tracing
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
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._model_load,
            "RepositoryModelUnload": self._model_unload,
        }
        answers = {name: self._with_messages(name, method) for name, method in methods.items()}
        inference = Inference(self._plane, self._tracing, *self._messages.methods["ModelInfer"])
        answers["ModelInfer"] = inference.answer
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(self._guarded(name, answer))
                for name, answer in answers.items()
            },
        )

    def _with_messages(self, name: str, method: _Method) -> _Answer:
        request_class = self._messages.methods[name][0]

        async def answer(data: bytes, context: Any) -> bytes:
            response = await method(read_message(request_class, data), context)
            serialized: bytes = response.SerializeToString()
            return serialized

        return answer

    def _guarded(self, name: str, answer: _Answer) -> _Answer:
        async def answer_or_abort(data: bytes, context: Any) -> bytes:
            self.calls += 1
            try:
                response = await answer(data, context)
                if self._held is not None:
                    await self._held.wait()
                return response
            except RequestError as exc:
                if exc.retry_after is not None:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", str(exc.retry_after * 1000)),))
                error = (CODES.get(exc.status, grpc.StatusCode.INTERNAL), exc.message)
            except Exception:
                _logger.exception("%s failed", name)
                error = (grpc.StatusCode.INTERNAL, "the server failed; its log says why")
            finally:
                self.calls -= 1
            await context.abort(*error)
            raise AssertionError  # abort has raised

        return answer_or_abort

    def _response(self, method: str, /, **fields: Any) -> Any:
        return self._messages.methods[method][1](**fields)

    def _served(self, request: Any) -> ServedModel:
        return self._registry.resolve_version(request.name, request.version)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return self._response("ServerLive", live=self._plane.alive)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        ready = self._plane.ready and not self._drain.active
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
        about = server_metadata(installed_version(), changeable=self._repository.changeable)
        return self._response("ServerMetadata", **about)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        metadata = model_metadata(self._served(request))
        for tensor in metadata["outputs"]:
            tensor.pop("parameters", None)  # gRPC's form has no place for them
        return self._response("ModelMetadata", **metadata)

    async def _model_config(self, request: Any, context: Any) -> Any:
        return self._response("ModelConfig", config=model_config(self._served(request)))

    async def _model_statistics(self, request: Any, context: Any) -> Any:
        statistics = await self._totals.statistics()
        found = statistics_of(self._registry, statistics, request.name or None, request.version or None)
        return self._response("ModelStatistics", model_stats=found)

    async def _repository_index(self, request: Any, context: Any) -> Any:
        return self._response("RepositoryIndex", models=repository_index(self._registry, ready_only=request.ready))

    async def _model_load(self, request: Any, context: Any) -> Any:
        self._check_change(request, context)
        await self._repository.load(request.model_name, parameters_of(request.parameters))
        return self._response("RepositoryModelLoad")

    async def _model_unload(self, request: Any, context: Any) -> Any:
        self._check_change(request, context)
        await self._repository.unload(request.model_name, parameters_of(request.parameters))
        return self._response("RepositoryModelUnload")

    def _check_change(self, request: Any, context: Any) -> None:
        given = {key: value for key, value in context.invocation_metadata() if key == "authorization"}
        self._repository.check(given.get("authorization", ""))
        if request.repository_name:
            raise BadRequest("there is one repository, and it has no name; leave repository_name empty")
