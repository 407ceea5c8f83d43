"""A server that a router still knows goes on serving it: the router's DNS may have told it of no other yet."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
from modelyard_runtime.contract import HEADER_ROUTER
from modelyard_runtime.serving.drain import Drain
from unit.runtime.support import SUM, start_server

ROUTER = {HEADER_ROUTER: "1"}


def test_a_router_counts_until_three_seconds_after_its_last_check() -> None:
    now = 100.0
    drain = Drain(lambda: now)
    assert not drain.routed

    drain.on_router_check()

    assert drain.routed
    now = 102.9
    assert drain.routed
    now = 103.1
    assert not drain.routed


def test_a_draining_server_serves_on_while_a_router_checks_it_and_ends_afterwards(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="0.1") as server:
        server.wait_for("/health/ready", 200)
        httpx.get(f"{server.url}/health/ready", headers=ROUTER)
        server.process.terminate()
        server.wait_for("/health/ready", 503)

        for _ in range(8):
            assert httpx.get(f"{server.url}/health/ready", headers=ROUTER).status_code == 503
            assert httpx.post(f"{server.url}/predict", json={"features": [1, 2]}).json()["prediction"] == 3.0
            time.sleep(0.2)

        assert server.finish() == 0


def test_a_server_that_no_router_checks_ends_after_its_delay_however_often_others_ask(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="0.1", MODELYARD_TIMEOUT="600") as server:
        server.wait_for("/health/ready", 200)
        server.process.terminate()

        while server.process.poll() is None:
            try:
                server.status("/health/ready")
            except httpx.TransportError:
                break

        assert server.finish() == 0
