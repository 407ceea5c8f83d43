"""Without the variables that ask for traces nobody pays for them; those that mean nothing are named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from modelyard_runtime.telemetry.tracing import start_tracing
from unit.runtime.support import SUM, Server, start_server
from unit.runtime.tracing.otlp import Collector
from unit.runtime.tracing.support import end, new_trace, traced_server

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
    assert "modelyard_runtime.telemetry.tracing" in names
    # FastAPI itself imports OpenTelemetry's API, which does nothing without the SDK.
    sdk = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests")
    ours = (*sdk, "modelyard_runtime.telemetry.spans")
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
