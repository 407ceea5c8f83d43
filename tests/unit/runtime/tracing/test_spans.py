"""Spans of requests of every protocol, as a collector receives them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from unit.runtime.support import Server
from unit.runtime.tracing.otlp import SERVER, UNSET, Collector, collect_http
from unit.runtime.tracing.support import PARENT, ROW, assert_within, new_trace, traced_server
from waiting import eventually

TENSOR = {"name": "features", "datatype": "FP64", "shape": [1, 4], "data": ROW}
SERVED = {"modelyard.model": "churn", "modelyard.version": "7"}
HTTP = [
    ("/predict", "/predict", {"features": ROW}, "predict"),
    ("/predict/batch", "/predict/batch", {"instances": [ROW]}, "predict"),
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

    hostile: tuple[list[tuple[str, Any]], ...] = (
        [*long.items(), ("tracestate", f"vendor={'x' * 600}"), ("user-agent", "y" * 9000)],
        [*host.items(), ("host", "[x:99999"), ("user-agent", "\xff\xfe".encode("latin-1"))],
        twice,
    )
    for headers in hostile:
        httpx.post(f"{server.url}/predict", json={"features": ROW}, headers=headers).raise_for_status()

    tall, _ = collector.wait_for(long_id)
    lost, _ = collector.wait_for(host_id)
    assert (tall.trace_state, len(tall.attributes["user_agent.original"])) == ("", 256)
    assert "server.address" not in lost.attributes
    begun = eventually(lambda: {span.trace_id for span in collector.spans if not span.parent_id} - before)
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
