"""Traces: what a collector receives for requests of every protocol, and that nobody pays who did not ask for it."""

from __future__ import annotations

import json
import logging
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from modelyard_runtime.artifacts import fetch
from modelyard_runtime.observe.tracing import start_tracing
from tritonclient.utils import InferenceServerException
from unit.runtime.otlp import ERROR, INTERNAL, SERVER, UNSET, Collector, Span, collect_grpc, collect_http
from unit.runtime.support import LOGISTIC, SUM, Server, free_port, start_server

PARENT = "00f067aa0ba902b7"
ROW = [1.0, 2.0, 3.0, 4.0]
TENSOR = {"name": "features", "datatype": "FP64", "shape": [1, 4], "data": ROW}
SERVED = {"modelyard.model": "churn", "modelyard.version": "7"}
SLOW = """
import time

class Model:
    features = 1
    def predict(self, rows):
        if rows[0, 0] < 0:
            raise RuntimeError("negative")
        time.sleep(rows[0, 0])
        return rows[:, 0]
"""
HTTP = [
    ("/predict", "/predict", {"features": ROW}, "seed"),
    ("/predict/batch", "/predict/batch", {"instances": [ROW]}, "seed"),
    ("/v2/models/churn/infer", "/v2/models/{model}/infer", {"inputs": [TENSOR]}, "v2"),
    (
        "/v2/models/churn/versions/7/infer",
        "/v2/models/{model}/versions/{version}/infer",
        {"inputs": [TENSOR]},
        "v2",
    ),
    ("/v1/models/churn:predict", "/v1/models/{model}:predict", {"instances": [ROW]}, "v1"),
    (
        "/v1/models/churn/versions/7:predict",
        "/v1/models/{model}/versions/{version}:predict",
        {"instances": [ROW]},
        "v1",
    ),
]


def new_trace(flags: str = "01") -> tuple[str, dict[str, str]]:
    """Return the id of a trace that a client has begun, and the header that says so."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{PARENT}-{flags}"}


@contextmanager
def traced_server(folder: Path, collector: Collector, model: Any = SUM, **env: str) -> Iterator[Server]:
    """Start a server that exports to `collector` without delay."""
    env = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **env}
    with start_server(folder, model, **env) as server:
        server.wait_for("/health/live", 200)
        server.wait_for("/health/ready", 200)
        yield server


@contextmanager
def slow_server(folder: Path, collector: Collector, **env: str) -> Iterator[Server]:
    """Start a server whose model takes as many seconds as its feature says, and fails for a negative one."""
    (folder / "source").mkdir()
    (folder / "source" / "model.py").write_text(SLOW)
    fetch((folder / "source").as_uri(), folder / "volume", allow_pickle=True)
    with traced_server(folder, collector, None, MODELYARD_ALLOW_PICKLE="true", **env) as server:
        yield server


def end(server: Server, number: signal.Signals = signal.SIGINT) -> list[str]:
    """End a server and return the lines of its log."""
    server.process.send_signal(number)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    return log.splitlines()


def assert_within(child: Span, parent: Span) -> None:
    assert (child.trace_id, child.parent_id, child.kind) == (parent.trace_id, parent.span_id, INTERNAL)
    assert parent.start <= child.start <= child.end <= parent.end


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collect_http() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with traced_server(folder, collector, LOGISTIC, MODELYARD_MODEL_VERSION="7") as started:
        yield started


@pytest.mark.parametrize(("path", "route", "body", "protocol"), HTTP, ids=[case[0] for case in HTTP])
def test_a_request_over_http_is_a_span_of_its_clients_trace(
    server: Server, collector: Collector, path: str, route: str, body: Mapping[str, Any], protocol: str
) -> None:
    trace_id, parent = new_trace()
    ids = {"tracestate": "vendor=value", "user-agent": "test/1", "x-request-id": "req-1"}
    before = time.time_ns()

    response = httpx.post(server.url + path, json=body, headers={**parent, **ids})

    assert (response.status_code, response.headers["traceparent"]) == (200, parent["traceparent"])
    span, children = collector.wait_for(trace_id)
    assert (span.name, span.kind, span.status) == (f"POST {route}", SERVER, UNSET)
    assert (span.parent_id, span.trace_state) == (PARENT, "vendor=value")
    assert before < span.start < span.end < time.time_ns()
    assert span.attributes == {
        **SERVED,
        "http.request.method": "POST",
        "http.route": route,
        "http.response.status_code": 200,
        "url.path": path,
        "url.scheme": "http",
        "server.address": server.host,
        "server.port": server.port,
        "user_agent.original": "test/1",
        "modelyard.protocol": protocol,
        "modelyard.request_id": "req-1",
        "modelyard.rows": 1,
        "modelyard.batch_rows": 1,
    }
    (compute,) = [child for child in children if child.name == "compute"]
    assert compute.attributes == {"modelyard.batch_rows": 1}
    assert_within(compute, span)


def infer(server: Server, model: str, headers: Mapping[str, str]) -> Any:
    tensor = triton.InferInput("features", [2, 4], "FP64")
    tensor.set_data_from_numpy(np.array([ROW, ROW]))
    with triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        return client.infer(model, [tensor], headers=dict(headers))


def test_a_call_of_grpc_is_a_span_of_its_clients_trace(server: Server, collector: Collector) -> None:
    trace_id, parent = new_trace()

    infer(server, "churn", {**parent, "tracestate": "vendor=value"})

    span, children = collector.wait_for(trace_id)
    assert (span.name, span.kind, span.status) == ("inference.GRPCInferenceService/ModelInfer", SERVER, UNSET)
    assert (span.parent_id, span.trace_state) == (PARENT, "vendor=value")
    assert span.attributes == {
        **SERVED,
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "modelyard.protocol": "grpc",
        "modelyard.rows": 2,
        "modelyard.batch_rows": 2,
    }
    (compute,) = [child for child in children if child.name == "compute"]
    assert_within(compute, span)


def test_what_a_client_did_wrong_is_no_error_of_the_server(server: Server, collector: Collector) -> None:
    http_id, http_parent = new_trace()
    grpc_id, grpc_parent = new_trace()

    httpx.post(f"{server.url}/v2/models/other/infer", json={"inputs": [TENSOR]}, headers=http_parent)
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        infer(server, "other", grpc_parent)

    http, http_children = collector.wait_for(http_id)
    grpc, grpc_children = collector.wait_for(grpc_id)
    assert (http.status, http.attributes["http.response.status_code"]) == (UNSET, 404)
    assert http.attributes["url.path"] == "/v2/models/other/infer"
    assert (grpc.status, grpc.attributes["rpc.grpc.status_code"]) == (UNSET, 5)
    for span in (http, grpc):
        assert not {"error.type", "modelyard.model", "modelyard.rows"} & set(span.attributes)
    assert http_children == grpc_children == []


def test_another_method_and_a_body_that_is_too_large_have_spans_too(server: Server, collector: Collector) -> None:
    get_id, get_parent = new_trace()
    large_id, large_parent = new_trace()

    httpx.get(f"{server.url}/predict", headers=get_parent)
    httpx.post(f"{server.url}/predict", content=bytes(33554433), headers=large_parent)

    get, _ = collector.wait_for(get_id)
    large, _ = collector.wait_for(large_id)
    assert (get.name, get.attributes["http.request.method"]) == ("GET /predict", "GET")
    assert get.attributes["http.response.status_code"] == 405
    assert (large.name, large.attributes["http.response.status_code"]) == ("POST /predict", 413)


def test_an_answer_from_the_cache_says_so(server: Server, collector: Collector) -> None:
    body = {"features": [9, 8, 7, 6], "use_cache": True}
    (computed_id, computed_parent), (cached_id, cached_parent) = new_trace(), new_trace()

    for parent in (computed_parent, cached_parent):
        httpx.post(f"{server.url}/predict", json=body, headers=parent)

    computed, computing = collector.wait_for(computed_id)
    cached, children = collector.wait_for(cached_id)
    assert computed.attributes["modelyard.cached"] is False
    assert "compute" in [child.name for child in computing]
    assert (cached.attributes["modelyard.cached"], children) == (True, [])
    assert "modelyard.batch_rows" not in cached.attributes


@pytest.mark.parametrize(
    "traceparent",
    ["", f"00-{'0' * 32}-{PARENT}-01", f"ff-{'1' * 32}-{PARENT}-01", "nonsense"],
    ids=["none", "zeros", "version ff", "nonsense"],
)
def test_without_a_valid_parent_a_trace_begins_here(tmp_path: Path, traceparent: str) -> None:
    with collect_http() as collector, traced_server(tmp_path, collector) as server:
        httpx.post(
            f"{server.url}/predict",
            json={"features": [1, 2]},
            headers={"traceparent": traceparent} if traceparent else {},
        )

        span, _ = collector.wait_for_root()

    assert span.trace_id.strip("0")
    assert span.trace_id not in traceparent


def test_hostile_headers_cost_no_span(server: Server, collector: Collector) -> None:
    (long_id, long), (host_id, host) = new_trace(), new_trace()
    twice = [("traceparent", new_trace()[1]["traceparent"]) for _ in range(2)]
    before = {span.trace_id for span in collector.spans if not span.parent_id}

    for headers in (
        [*long.items(), ("tracestate", f"vendor={'x' * 600}"), ("user-agent", "y" * 9000)],
        [*host.items(), ("host", "[x:99999"), ("user-agent", "\xff\xfe".encode("latin-1"))],
        twice,
    ):
        httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=headers).raise_for_status()

    tall, _ = collector.wait_for(long_id)
    lost, _ = collector.wait_for(host_id)
    assert (tall.trace_state, len(tall.attributes["user_agent.original"])) == ("", 256)
    assert "server.address" not in lost.attributes
    while not (begun := {span.trace_id for span in collector.spans if not span.parent_id} - before):
        time.sleep(0.01)
    assert len(begun) == 1
    assert not any(trace_id in value for trace_id in begun for _, value in twice)


def test_rare_routes_have_no_spans(server: Server, collector: Collector) -> None:
    traces = [new_trace() for _ in range(5)]
    last_id, last = new_trace()

    for path, (_, parent) in zip(
        ("/health/live", "/metrics", "/models", "/v2/models/churn", "/none"), traces, strict=True
    ):
        httpx.get(server.url + path, headers=parent)
    httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=last)

    collector.wait_for(last_id)
    assert [collector.of(trace_id) for trace_id, _ in traces] == [[]] * 5


def test_a_parent_that_is_not_sampled_has_no_spans(server: Server, collector: Collector) -> None:
    http_id, http_parent = new_trace("00")
    grpc_id, grpc_parent = new_trace("00")
    last_id, last = new_trace()

    httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=http_parent)
    infer(server, "churn", grpc_parent)
    httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=last)

    collector.wait_for(last_id)
    assert collector.of(http_id) == collector.of(grpc_id) == []


def test_the_sampler_is_the_environments(tmp_path: Path) -> None:
    trace_id, parent = new_trace()
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    with collect_http() as collector, traced_server(tmp_path, collector, **sampler) as server:
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]})
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]}, headers=parent)
        collector.wait_for(trace_id)
        end(server)

    assert {span.trace_id for span in collector.spans} == {trace_id}


def test_the_service_is_the_model_unless_it_has_a_name(tmp_path: Path, server: Server, collector: Collector) -> None:
    (own_id, own), (named_id, named) = new_trace(), new_trace()
    attributes = "k8s.namespace.name=default,deployment.environment.name=test"

    httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=own)
    with traced_server(tmp_path, collector, OTEL_SERVICE_NAME="pricing", OTEL_RESOURCE_ATTRIBUTES=attributes) as other:
        httpx.post(f"{other.url}/predict", json={"features": [1, 2]}, headers=named)
        renamed, _ = collector.wait_for(named_id)

    assert collector.wait_for(own_id)[0].resource["service.name"] == "churn"
    assert renamed.resource["service.name"] == "pricing"
    assert renamed.resource["k8s.namespace.name"] == "default"


def test_stages_of_a_model_that_computes_in_a_thread(tmp_path: Path, collector: Collector) -> None:
    (waited_id, waited), (failed_id, failed), (late_id, late) = new_trace(), new_trace(), new_trace()
    with slow_server(tmp_path, collector, MODELYARD_BATCH_MAX_DELAY="0.02", MODELYARD_LOG_FORMAT="json") as server:
        httpx.post(f"{server.url}/predict", json={"features": [0.01]}, headers=waited)
        httpx.post(f"{server.url}/v1/models/churn:predict", json={"instances": [[-1]]}, headers=failed)
        httpx.post(
            f"{server.url}/predict",
            json={"features": [0.5]},
            headers={**late, "x-request-timeout-ms": "200"},
        )
        span, children = collector.wait_for(waited_id)
        failure, _ = collector.wait_for(failed_id)
        timeout, unfinished = collector.wait_for(late_id)
        lines = [json.loads(line) for line in end(server)]

    queue, compute = sorted(children, key=lambda child: child.start)
    assert (queue.name, compute.name) == ("queue", "compute")
    assert queue.end - queue.start >= 19_000_000
    assert compute.start == queue.end
    assert compute.end - compute.start >= 10_000_000
    assert_within(queue, span)
    assert_within(compute, span)
    assert (failure.status, failure.attributes["error.type"]) == (ERROR, "500")
    assert failure.attributes["http.response.status_code"] == 500
    assert (timeout.status, timeout.attributes["error.type"]) == (ERROR, "504")
    assert [child.name for child in unfinished if child.end == timeout.end] == ["compute"]
    (line,) = [line for line in lines if line["message"].startswith("the model raised")]
    assert (line["trace_id"], line["traceparent"]) == (failed_id, failed["traceparent"])


def test_lines_of_the_log_name_a_trace_that_begins_here(tmp_path: Path) -> None:
    with collect_http() as collector, slow_server(tmp_path, collector, MODELYARD_LOG_FORMAT="json") as server:
        httpx.post(f"{server.url}/predict", json={"features": [-1]})
        span, _ = collector.wait_for_root()
        lines = [json.loads(line) for line in end(server)]

    (line,) = [line for line in lines if line["message"].startswith("the model raised")]
    assert line["trace_id"] == span.trace_id
    assert "traceparent" not in line
    assert line["request_id"] == span.attributes["modelyard.request_id"]


def test_lines_about_a_call_of_grpc_name_its_trace(tmp_path: Path) -> None:
    with collect_http() as collector, slow_server(tmp_path, collector, MODELYARD_LOG_FORMAT="json") as server:
        tensor = triton.InferInput("features", [1, 1], "FP64")
        tensor.set_data_from_numpy(np.array([[-1.0]]))
        with (
            triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client,
            pytest.raises(InferenceServerException, match="INTERNAL"),
        ):
            client.infer("churn", [tensor])
        span, _ = collector.wait_for_root()
        lines = [json.loads(line) for line in end(server)]

    assert (span.status, span.attributes["error.type"], span.attributes["rpc.grpc.status_code"]) == (
        ERROR,
        "INTERNAL",
        13,
    )
    (line,) = [line for line in lines if line["message"].startswith("the model raised")]
    assert line["trace_id"] == span.trace_id
    assert "request_id" not in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_spans_are_exported_at_the_end(tmp_path: Path, collector: Collector, number: signal.Signals) -> None:
    trace_id, parent = new_trace()
    with traced_server(tmp_path, collector, OTEL_BSP_SCHEDULE_DELAY="600000") as server:
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]}, headers=parent)
        assert collector.of(trace_id) == []

        end(server, number)

    assert [span.kind for span in collector.of(trace_id)].count(SERVER) == 1


@pytest.mark.parametrize("answers", ["refuses", "hangs"])
def test_a_dead_collector_costs_one_line_of_the_log(tmp_path: Path, answers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] if answers == "hangs" else free_port()
        queue = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        timeout = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        with traced_server(tmp_path, Collector(f"http://127.0.0.1:{port}"), **queue, **timeout) as server:
            with httpx.Client(base_url=server.url) as client:
                answered = [client.post("/predict", json={"features": [1, 2]}).status_code for _ in range(300)]
            log = end(server, signal.SIGTERM)

    assert answered == [200] * 300
    (line,) = [line for line in log if " WARNING " in line or " ERROR " in line or "Traceback" in line]
    assert " WARNING modelyard: traces: " in line
    assert line.endswith("(no more of this for 5 minutes)")


def test_spans_over_grpc(tmp_path: Path) -> None:
    trace_id, parent = new_trace()
    with (
        collect_grpc() as collector,
        traced_server(tmp_path, collector, OTEL_EXPORTER_OTLP_PROTOCOL="grpc") as server,
    ):
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]}, headers=parent)
        span, _ = collector.wait_for(trace_id)
        end(server)

    assert (span.name, span.parent_id) == ("POST /predict", PARENT)


def test_workers_of_modelyard_serve_export_too(tmp_path: Path, collector: Collector, monkeypatch: Any) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / "model.json").write_text(json.dumps(SUM))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    port = free_port()
    trace_id, parent = new_trace()
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", str(tmp_path / "churn"), "--port", str(port)]

    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            started = Server(process, "127.0.0.1", port, tmp_path)
            started.wait_for("/health/live", 200)
            started.wait_for("/health/ready", 200)
            httpx.post(f"{started.url}/predict", json={"features": [1, 2]}, headers=parent)
        finally:
            process.send_signal(signal.SIGINT)
            log, _ = process.communicate(timeout=60)

    assert log.count("traces are exported as those of the service churn") == 1
    span, _ = collector.wait_for(trace_id)
    assert span.resource["service.name"] == "churn"


OBSERVER = """
import atexit, os, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("HIDDEN"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
main = os.getpid()

@atexit.register
def tell():
    if os.getpid() == main:
        open(os.environ["MODULES"], "w").write("\\n".join(sys.modules))
"""


@contextmanager
def observed_server(folder: Path, **env: str) -> Iterator[tuple[Server, Path]]:
    """Start a server that leaves the names of its modules in a file."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(OBSERVER)
    modules = folder / "modules"
    with start_server(folder, SUM, PYTHONPATH=str(folder / "site"), MODULES=str(modules), **env) as server:
        server.wait_for("/health/live", 200)
        server.wait_for("/health/ready", 200)
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]}, headers=new_trace()[1]).raise_for_status()
        yield server, modules


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_SERVICE_NAME": "churn"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["default", "name", "empty", "disabled", "none"],
)
def test_nothing_is_imported_unless_asked_for(tmp_path: Path, env: dict[str, str]) -> None:
    with observed_server(tmp_path, **env) as (server, modules):
        log = end(server)

    names = modules.read_text().splitlines()
    assert "modelyard_runtime.observe.tracing" in names
    # FastAPI itself imports OpenTelemetry's API, which does nothing without the SDK.
    sdk = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests")
    ours = (*sdk, "modelyard_runtime.observe.spans")
    assert [name for name in names if name.startswith(ours)] == []
    assert len(log) == 1


def test_asked_for_but_not_installed_the_log_names_the_extra(tmp_path: Path) -> None:
    with observed_server(tmp_path, HIDDEN="opentelemetry.sdk", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as (
        server,
        _,
    ):
        log = end(server)

    (line,) = [line for line in log if "traces" in line]
    assert line.endswith(
        " WARNING modelyard: no traces, though OTEL_EXPORTER_OTLP_ENDPOINT asks for them: "
        "No module named 'opentelemetry.sdk'; install modelyard[otel]"
    )


def test_values_that_mean_nothing_here_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "modelyard")

    assert start_tracing({"OTEL_TRACES_EXPORTER": "jaeger"}, "m") is None
    assert start_tracing({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "m") is None

    assert caplog.messages == [
        "no traces: OTEL_TRACES_EXPORTER names jaeger, and they are exported by otlp alone",
        "no traces: OTLP is spoken as http/protobuf and grpc, and not as http/json",
    ]


def test_a_variable_that_the_sdk_refuses_does_not_keep_the_server_from_serving(tmp_path: Path) -> None:
    with traced_server(tmp_path, Collector("http://127.0.0.1:9"), OTEL_BSP_MAX_EXPORT_BATCH_SIZE="0") as server:
        status = httpx.post(f"{server.url}/predict", json={"features": [1, 2]}).status_code
        log = end(server)

    assert status == 200
    (line,) = [line for line in log if "traces" in line]
    assert " WARNING modelyard: no traces: the SDK of OpenTelemetry refuses the OTEL_ variables: " in line
