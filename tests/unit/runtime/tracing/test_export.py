"""How traces leave the server: the standard variables, the last spans, collectors that are dead."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from unit.runtime.support import SUM, Server, held_port
from unit.runtime.tracing.otlp import SERVER, Collector, collect_grpc, collect_http
from unit.runtime.tracing.support import PARENT, ROW, end, new_trace, traced_server


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
    with socket.create_server(("127.0.0.1", 0)) as listener, held_port() as unused:
        port = listener.getsockname()[1] if answers == "hangs" else unused
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
    trace_id, parent = new_trace()
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", str(tmp_path / "churn"), "--workers", "2"]

    with (
        held_port() as port,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
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
