"""Stages of a request as spans of their own, and lines of the log that name its trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from modelyard_runtime.artifacts.fetch import fetch
from tritonclient.utils import InferenceServerException
from unit.runtime.support import Server
from unit.runtime.tracing.otlp import ERROR, Collector, collect_http
from unit.runtime.tracing.support import assert_within, end, new_trace, traced_server

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


@contextmanager
def slow_server(folder: Path, collector: Collector, **env: str) -> Iterator[Server]:
    """Start a server whose model takes as many seconds as its feature says, and fails for a negative one."""
    (folder / "source").mkdir()
    (folder / "source" / "model.py").write_text(SLOW)
    fetch((folder / "source").as_uri(), folder / "volume", allow_pickle=True)
    with traced_server(folder, collector, None, MODELYARD_ALLOW_PICKLE="true", **env) as server:
        yield server


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
