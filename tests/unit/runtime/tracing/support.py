"""What the tests of traces share: servers that export, and traces that clients have begun."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unit.runtime.support import SUM, Server, start_server
from unit.runtime.tracing.otlp import INTERNAL, Collector, Span

PARENT = "00f067aa0ba902b7"
ROW = [1.0, 2.0, 3.0, 4.0]


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


def end(server: Server, number: signal.Signals = signal.SIGINT) -> list[str]:
    """End a server and return the lines of its log."""
    server.process.send_signal(number)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    return log.splitlines()


def assert_within(child: Span, parent: Span) -> None:
    assert (child.trace_id, child.parent_id, child.kind) == (parent.trace_id, parent.span_id, INTERNAL)
    assert parent.start <= child.start <= child.end <= parent.end
