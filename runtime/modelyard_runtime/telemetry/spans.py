"""The spans of requests, by OpenTelemetry's SDK; imported only where requests are traced (telemetry/tracing.py).

A request's spans are made from its timestamps once it is answered, so that what answers it need not know of them. A
thread of the SDK exports them; while the collector does not take them, they are dropped and requests go on.

Names and attributes: OpenTelemetry's semantic conventions for HTTP and RPC server spans, and `modelyard.*`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from modelyard_runtime.telemetry.log import CURRENT_REQUEST, RequestContext
from modelyard_runtime.telemetry.statistics import Stages

if TYPE_CHECKING:
    import grpc


__all__ = ["HttpTrace", "RpcTrace", "Tracing"]

Attributes: TypeAlias = dict[str, str | int | bool]
_Describe: TypeAlias = Callable[[], Attributes]
"""Gives the conventions' attributes of a span, `error.type` among them for what is the server's fault."""

_logger = logging.getLogger("modelyard")
_FLUSH_SECONDS = 2.0
"""What the last spans get at the end; the pod's grace period has 5 s more than requests need."""
_WARNING_SECONDS = 300.0
_WAIT_NS = 100_000
"""A shorter wait for a thread is not shown: models that compute in the event loop would each show one of 1 us."""
_MAX_TEXT = 256
"""Characters kept of what clients send: spans wait in memory, and headers may be long."""
_MAX_TRACESTATE = 512
"""The length that the W3C asks to pass on; a longer one is left out."""
_FAULTS = frozenset({2, 4, 12, 13, 14, 15})
"""Codes of gRPC that are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
DATA_LOSS. From the semantic conventions for gRPC."""
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class Tracing:
    """Makes spans of requests. For the event loop's thread."""

    def __init__(self, protocol: str, service: str) -> None:
        """Export by OTLP as `protocol`: `http/protobuf` or `grpc`.

        `service` is the service's name where the environment has none. Raises ImportError, and what the SDK raises for
        variables that it refuses.
        """
        _quieten()
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):  # the SDK's own default
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self.service = str(resource.attributes[SERVICE_NAME])
        self.ids = _Ids()
        processor = BatchSpanProcessor(_exporter(protocol))
        self._provider = TracerProvider(resource=resource, id_generator=self.ids, shutdown_on_exit=False)
        # Ours alone, not the process': FastAPI would make spans of the rare routes.
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("modelyard")
        self._outside = contextvars.Context()

    def begin(self, headers: Iterable[tuple[bytes, bytes]], method: str, route: str, path: str) -> HttpTrace:
        """Take note of a request over HTTP; what is logged in this context from now on names its trace.

        `route` is the form of `path`, with names in braces for what differs.
        """
        current = CURRENT_REQUEST.get() or RequestContext(b"")
        request_id = current.request_id.decode("latin-1")
        trace = HttpTrace(self, headers, method=method, route=route, path=path, request_id=request_id)
        CURRENT_REQUEST.set(current._replace(trace=trace))
        return trace

    def begin_rpc(
        self,
        metadata: Iterable[tuple[str, str | bytes]],
        service: str,
        method: str,
        code_of: Callable[[int], grpc.StatusCode],
    ) -> RpcTrace:
        """Take note of a call of gRPC; what is logged in this context from now on names its trace.

        `code_of` gives gRPC's status for one of HTTP.
        """
        trace = RpcTrace(self, metadata, service, method, code_of)
        CURRENT_REQUEST.set(RequestContext(b"", trace=trace))
        return trace

    def soon(self, finish: Callable[[], None]) -> None:
        """Call `finish` once the answer is written: it costs as much as a small model."""
        asyncio.get_running_loop().call_soon(finish, context=self._outside)

    async def close(self) -> None:
        """Export what is left, for 2 seconds at most: a collector that does not answer must not hold up the end."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _FLUSH_SECONDS)


class _Trace(ABC):
    """One request's place in a trace: the client's, or one of our own."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._own = random.getrandbits(128)

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits. May be asked for in any thread."""
        client = get_current_span(self._parent()).get_span_context()
        return format_trace_id(client.trace_id if client.is_valid else self._own)

    @abstractmethod
    def _headers(self) -> Iterable[tuple[str, str]]:
        """Give the request's headers or metadata, names in lower case."""

    def _end(self, name: str, stages: Stages, describe: _Describe) -> None:
        """Have the spans made of a request that is answered now."""
        shift = time.time_ns() - stages.ended
        self._tracing.soon(lambda: self._finish(name, stages, describe, shift))

    def _finish(self, name: str, stages: Stages, describe: _Describe, shift: int) -> None:
        """Make the spans. `shift` takes the stages' clock to nanoseconds since the epoch."""
        ids, tracer = self._tracing.ids, self._tracing.tracer
        ids.next_trace_id = self._own
        span = tracer.start_span(name, self._parent(), SpanKind.SERVER, start_time=stages.arrived + shift)
        if not span.is_recording():
            return
        attributes = describe()
        span.set_attributes(attributes)
        if "error.type" in attributes:
            span.set_status(StatusCode.ERROR)
        within = set_span_in_context(span, Context())
        for stage, start, end, more in _stages(stages):
            tracer.start_span(stage, within, attributes=more, start_time=start + shift).end(end + shift)
        span.end(stages.ended + shift)

    def _parent(self) -> Context:
        carrier: dict[str, str] = {}
        for name, value in self._headers():
            if name in ("traceparent", "tracestate"):
                carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
        if not carrier:
            return Context()
        if len(carrier.get("tracestate", "")) > _MAX_TRACESTATE:
            del carrier["tracestate"]
        return TraceContextTextMapPropagator().extract(carrier, Context())


class HttpTrace(_Trace):
    """A request over HTTP."""

    def __init__(
        self,
        tracing: Tracing,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        method: str,
        route: str,
        path: str,
        request_id: str,
    ) -> None:
        super().__init__(tracing)
        self._raw = headers
        self._method = method
        self._route = route
        self._path = path
        self._request_id = request_id

    def end(self, stages: Stages, status: int) -> None:
        """Have the spans made of a request that is answered now."""
        method = self._method if self._method in _METHODS else "HTTP"
        self._end(f"{method} {self._route}", stages, lambda: {**self._describe(status), **_attributes(stages)})

    def _headers(self) -> Iterable[tuple[str, str]]:
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._raw)

    def _describe(self, status: int) -> Attributes:
        known = self._method in _METHODS
        attributes: Attributes = {
            "http.request.method": self._method if known else "_OTHER",
            "http.route": self._route,
            "http.response.status_code": status,
            "url.path": self._path[:_MAX_TEXT],
            "url.scheme": "http",
        }
        if not known:
            attributes["http.request.method_original"] = self._method[:_MAX_TEXT]
        if self._request_id:
            attributes["modelyard.request_id"] = self._request_id
        for name, value in self._headers():
            if name == "user-agent":
                attributes["user_agent.original"] = value[:_MAX_TEXT]
            elif name == "host":
                attributes |= _server(value[:_MAX_TEXT])
        if status >= 500:
            attributes["error.type"] = str(status)
        return attributes


class RpcTrace(_Trace):
    """A call of gRPC."""

    def __init__(
        self,
        tracing: Tracing,
        metadata: Iterable[tuple[str, str | bytes]],
        service: str,
        method: str,
        code_of: Callable[[int], grpc.StatusCode],
    ) -> None:
        super().__init__(tracing)
        self._metadata = tuple(metadata)
        self._service = service
        self._method = method
        self._code_of = code_of

    def end(self, stages: Stages, status: int) -> None:
        """Have the spans made of a request that is answered now."""
        service, method, code = self._service, self._method, self._code_of(status)
        self._end(
            f"{service}/{method}", stages, lambda: {**_describe_rpc(service, method, code), **_attributes(stages)}
        )

    def _headers(self) -> Iterable[tuple[str, str]]:
        return ((name, value) for name, value in self._metadata if isinstance(value, str))


def _describe_rpc(service: str, method: str, code: grpc.StatusCode) -> Attributes:
    number: int = code.value[0]
    attributes: Attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": number,
    }
    if number in _FAULTS:
        attributes["error.type"] = code.name
    return attributes


def _attributes(stages: Stages) -> Attributes:
    attributes: Attributes = {"modelyard.protocol": stages.protocol}
    if stages.model:
        attributes |= {"modelyard.model": stages.model, "modelyard.version": stages.version}
    if stages.rows:
        attributes["modelyard.rows"] = stages.rows
    if stages.batch:
        attributes["modelyard.batch_rows"] = stages.batch
    if stages.cached is not None:
        attributes["modelyard.cached"] = stages.cached
    return attributes


def _stages(stages: Stages) -> Iterator[tuple[str, int, int, Attributes]]:
    """Give the stages that are spans of their own: name, start, end (of the stages' clock), attributes."""
    if not stages.parsed or stages.cached:
        return
    waiting = stages.parsed + (stages.lookup.look_ns if stages.lookup is not None else 0)
    started = stages.started or stages.ended  # some wait in vain
    if started - waiting >= _WAIT_NS:
        yield "queue", waiting, started, {}
    if stages.started:
        yield "compute", started, stages.computed or stages.ended, {"modelyard.batch_rows": stages.batch}


def _server(host: str) -> Attributes:
    """Return what a Host header names."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return {}
    attributes: Attributes = {"server.address": name} if name else {}
    return attributes | {"server.port": port} if port is not None else attributes


class _Ids(RandomIdGenerator):
    """Gives the trace the id that the log already has; spans get random ones."""

    next_trace_id = 0

    def generate_trace_id(self) -> int:
        return self.next_trace_id


class _Rarely(logging.Handler):
    """Says now and then what the SDK says over and over while a collector is away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._due = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        if now >= self._due:
            self._due = now + _WARNING_SECONDS
            minutes = _WARNING_SECONDS / 60
            _logger.warning("traces: %s (no more of this for %g minutes)", record.getMessage(), minutes)


def _quieten() -> None:
    sdk = logging.getLogger("opentelemetry")
    sdk.propagate = False
    sdk.handlers = [_Rarely()]
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the exporter's transport; its failures are told above


def _exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as rpc  # noqa: PLC0415 - one of the two

        return rpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http  # noqa: PLC0415

    return http.OTLPSpanExporter()
