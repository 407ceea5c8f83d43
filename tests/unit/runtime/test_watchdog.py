"""Models whose predict never returns: told once, counted, and seen by probes."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.dataplane.batching import Batch, Batcher
from modelyard_runtime.dataplane.watchdog import Watchdog
from unit.runtime.support import start_server
from waiting import eventually

HANGS = """
import pathlib, time

class Model:
    features = 1

    def predict(self, rows):
        while rows[0, 0] == 1 and not pathlib.Path({gate!r}).exists():
            time.sleep(0.01)
        return rows[:, 0]
"""


def watching(*started: float, threads: int = 2) -> tuple[Watchdog, list[float]]:
    now = [0.0]
    running = {Batch((), rows=1, started=at, thread=threading.get_ident()) for at in started}
    batcher = cast("Batcher", SimpleNamespace(threads=threads, running=running, clock=lambda: now[0]))
    return Watchdog(batcher, timeout=10), now


@pytest.mark.parametrize(
    ("now", "stuck", "responsive", "alive"),
    [(15, 0, True, True), (21, 1, True, True), (29, 2, False, True), (39, 2, False, False)],
)
def test_threads_are_stuck_after_two_timeouts_and_dead_after_three(
    now: float, stuck: int, responsive: bool, alive: bool
) -> None:
    watchdog, clock = watching(0, 8)
    clock[0] = now

    assert (watchdog.stuck, watchdog.responsive, watchdog.alive) == (stuck, responsive, alive)


def test_one_idle_thread_keeps_the_server_alive() -> None:
    watchdog, clock = watching(0)
    clock[0] = 1000

    assert (watchdog.stuck, watchdog.responsive, watchdog.alive) == (1, True, True)


def test_the_stack_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    watchdog, clock = watching(0)
    for clock[0] in (5, 21, 22, 23):
        watchdog.look()

    (record,) = caplog.records
    assert "has computed 1 rows for over 20 s" in record.message
    assert "in test_the_stack_is_logged_once" in record.message


def test_probes_fail_while_every_thread_is_stuck_and_pass_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = HANGS.format(gate=str(gate))

    source = tmp_path / "source"
    source.mkdir()
    (source / "model.py").write_text(code)
    fetch(source.as_uri(), tmp_path / "volume", allow_pickle=True)

    with start_server(tmp_path, MODELYARD_TIMEOUT="0.3", MODELYARD_ALLOW_PICKLE="true") as server:
        server.wait_for("/health/ready", 200)

        def ask(value: int) -> Any:
            return httpx.post(f"{server.url}/predict", json={"features": [value]}, timeout=30)

        assert [ask(1).status_code for _ in range(4)] == [504] * 4
        for path in ("/health/ready", "/health/serving", "/health/live", "/v2/health/live"):
            server.wait_for(path, 503)
        assert "modelyard_stuck_threads 0.0" not in httpx.get(f"{server.url}/metrics").text
        gate.touch()
        for path in ("/health/live", "/health/ready"):
            server.wait_for(path, 200)
        eventually(lambda: ask(0).status_code == 200)
