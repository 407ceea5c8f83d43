"""Clients of a gRPC server that ends under load while another one takes over: the calls that they lose."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from waiting import eventually_async

__all__ = ["end_under_load"]

_SERVER = Path(__file__).with_name("server.py")
_RUNTIME = Path(__file__).parents[5] / "runtime"
CLIENTS = 8
CALLS_AT_ONCE = 4
"""Of each client."""
LEAST_ANSWERS = 300
"""Of the server that ends, before it is told to; of the other, afterwards."""
HEALTH_CHECKED = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "any"}})
"""A client that spreads its calls, and minds each server's health (gRFC A17)."""


def end_under_load(mode: str, *, python: str | Path, health_checked: bool) -> Counter[str]:
    """End a server that `python` runs, under load; return the calls that were lost, by code and details.

    The clients take the first of two addresses that accepts; where they are `health_checked`, they spread their calls
    over both, and mind each one's health.
    """
    with _started(python, "new", "stop") as (_, other), _started(python, "old", mode) as (old, port):
        return asyncio.run(_end(old, (port, other), health_checked=health_checked))


@contextmanager
def _started(python: str | Path, name: str, mode: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a server; give its process and its port."""
    environment = {**os.environ, "PYTHONPATH": str(_RUNTIME)}
    process = subprocess.Popen(
        [python, _SERVER, name, mode], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


async def _end(old: subprocess.Popen[str], ports: tuple[int, int], *, health_checked: bool) -> Counter[str]:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if health_checked:
        options.append(("grpc.service_config", HEALTH_CHECKED))
    answers: Counter[bytes] = Counter()
    lost: Counter[str] = Counter()
    stop = asyncio.Event()
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CLIENTS)]
    calls = [asyncio.create_task(_call(each, answers, lost, stop)) for each in channels for _ in range(CALLS_AT_ONCE)]
    await eventually_async(lambda: answers[b"old"] >= LEAST_ANSWERS)
    old.terminate()
    assert await asyncio.to_thread(old.wait) == 0
    enough = answers[b"new"] + LEAST_ANSWERS
    await eventually_async(lambda: answers[b"new"] >= enough)
    stop.set()
    await asyncio.gather(*calls)
    for each in channels:
        await each.close()
    return lost


async def _call(channel: grpc.aio.Channel, answers: Counter[bytes], lost: Counter[str], stop: asyncio.Event) -> None:
    method = channel.unary_unary("/any.Service/Call")
    while not stop.is_set():
        try:
            answers[await method(b"", timeout=60)] += 1
        except grpc.aio.AioRpcError as exc:
            lost[f"{exc.code().name}: {exc.details()}"] += 1
