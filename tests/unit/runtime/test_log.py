"""The log: plain or JSON, and which request a line is about."""

from __future__ import annotations

import contextvars
import json
import logging
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard_runtime.telemetry.log import CURRENT_REQUEST, RepeatFilter, RequestContext
from unit.runtime.support import SUM, start_server

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IDS = {"x-request-id": "req-1", "traceparent": TRACE}


def log_of(folder: Path, **env: str) -> list[str]:
    """Serve one request with ids, and return the lines of the log."""
    with start_server(folder, SUM, **env) as server:
        server.wait_for("/health/live", 200)
        server.wait_for("/health/ready", 200)
        httpx.post(f"{server.url}/predict", json={"features": [1, 2]}, headers=IDS)
        server.process.send_signal(signal.SIGINT)
        _, log = server.process.communicate(timeout=60)
        return log.splitlines()


@pytest.fixture(scope="module")
def json_lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("json")
    return [json.loads(line) for line in log_of(folder, MODELYARD_LOG_FORMAT="json", MODELYARD_LOG_LEVEL="debug")]


def test_json_is_one_object_a_line(json_lines: list[dict[str, Any]]) -> None:
    (start,) = [line for line in json_lines if line["logger"] == "modelyard"]

    assert sorted(start) == ["level", "logger", "message", "time"]
    assert start["level"] == "info"
    assert start["message"].startswith("serving churn (linear, version ")
    assert "; runs as numpy; loaded in " in start["message"]


def test_a_request_is_named_by_its_ids(json_lines: list[dict[str, Any]]) -> None:
    (line,) = [line for line in json_lines if line["message"].startswith("POST /predict 200 in ")]

    assert (line["request_id"], line["traceparent"], line["level"]) == ("req-1", TRACE, "debug")


def test_plain_lines_name_the_request_too(tmp_path: Path) -> None:
    lines = log_of(tmp_path, MODELYARD_LOG_LEVEL="debug")

    (line,) = [line for line in lines if "POST /predict 200" in line]
    assert line.endswith(f" request_id=req-1 traceparent={TRACE}")


def test_requests_are_not_logged_unless_asked_for(tmp_path: Path) -> None:
    assert len(log_of(tmp_path)) == 1


def test_a_fault_that_requests_repeat_is_logged_a_few_times_a_minute() -> None:
    now = [0.0]
    repeats = RepeatFilter(at_most=2, seconds=60, clock=lambda: now[0])

    def passes(message: str, level: int = logging.ERROR, *args: object) -> str | None:
        record = logging.LogRecord("modelyard", level, __file__, 1, message, args, None)
        return record.getMessage() if repeats.filter(record) else None

    outside = [passes("the model raised") for _ in range(3)]
    context = contextvars.copy_context()
    context.run(CURRENT_REQUEST.set, RequestContext(b"a"))
    within = [context.run(passes, "the model raised for shape %s", logging.ERROR, shape) for shape in range(4)]
    other = context.run(passes, "the model is late")
    asked_for = [context.run(passes, "POST /predict", logging.DEBUG) for _ in range(3)]
    now[0] = 61
    later = context.run(passes, "the model raised for shape %s", logging.ERROR, 9)

    assert outside == ["the model raised"] * 3
    assert within == ["the model raised for shape 0", "the model raised for shape 1", None, None]
    assert other == "the model is late"
    assert asked_for == ["POST /predict"] * 3
    assert later == "the model raised for shape 9 (2 more like this were left out)"
