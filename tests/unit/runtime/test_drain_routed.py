"""A server that a router still knows goes on serving it: the router's DNS may have told it of no other yet."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc as triton
from modelyard_runtime.contract import HEADER_ROUTER
from modelyard_runtime.http.drain import Drain
from unit.runtime.support import SUM, start_server
from waiting import eventually_async

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


def test_grpc_is_served_for_as_long_as_http(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="0.1") as server:
        server.wait_for("/health/ready", 200)
        httpx.get(f"{server.url}/health/ready", headers=ROUTER)
        server.process.terminate()
        server.wait_for("/health/ready", 503)

        for _ in range(8):
            assert httpx.get(f"{server.url}/health/ready", headers=ROUTER).status_code == 503
            # A connection of its own each time, as a router makes that has closed the one before.
            with triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
                rows = triton.InferInput("features", [1, 2], "FP64")
                rows.set_data_from_numpy(np.array([[1.0, 2.0]]))
                assert client.infer("churn", [rows]).as_numpy("prediction").tolist() == [3.0]
            time.sleep(0.2)

        assert server.finish() == 0


def test_listeners_leave_together() -> None:
    """A check that comes when one has left holds up none of those that are yet to look."""

    async def scenario() -> list[str]:
        now = 100.0
        drain, left = Drain(lambda: now), []

        async def listen(name: str) -> None:
            await drain.until_left(0, 600)
            left.append(name)

        drain.on_router_check()
        drain.on_terminate()
        first = asyncio.create_task(listen("http"))
        await asyncio.sleep(0.2)
        before = list(left)
        now += 3
        await first
        drain.on_router_check()
        await listen("grpc")
        return before

    assert asyncio.run(scenario()) == []


def test_a_router_that_never_leaves_is_waited_for_no_longer_than_a_request_and_a_little() -> None:
    async def scenario() -> bool:
        now, looks = 100.0, 0

        def clock() -> float:
            nonlocal looks
            looks += 1
            return now

        drain = Drain(clock)
        drain.on_router_check()
        drain.on_terminate()
        leaving = asyncio.create_task(drain.until_left(0, 30))
        looks = 0
        await eventually_async(lambda: looks > 0)  # it waits for the router now
        now = 134.9
        drain.on_router_check()
        looks = 0
        await eventually_async(lambda: looks > 4 or leaving.done())
        early = leaving.done()
        now = 135.1
        drain.on_router_check()
        await leaving
        return early

    assert asyncio.run(scenario()) is False
