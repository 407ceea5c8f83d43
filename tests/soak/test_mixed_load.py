"""All that clients do, all at once and for long: no well-formed request fails, and the server's memory stays flat."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc.aio as triton_aio
from soak.clients import FACTORS, MAX_BODY_BYTES, TOKEN, Clients
from unit.runtime.support import start_server, write_model

SECONDS = float(os.environ.get("MODELYARD_SOAK_SECONDS", "600"))
WARM_UP = 0.2
"""The share of the time in which pools, caches and the allocator's arenas may still grow."""
LEAK_BYTES = 32.0
"""Bytes a request that memory may seem to grow by. The least that can leak is an object and its place in a list or
dictionary, 50 bytes and more. Without a leak, six minutes gave 0.6; with connections held for 75 s too long, 49."""
MIB = 1024 * 1024


@dataclass
class Record:
    """What happened: calls by kind, what failed, and memory over time."""

    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the start, calls until then, bytes of resident memory."""


def growth(samples: Sequence[tuple[float, int, int]]) -> float:
    """Return the slope of memory after the warm-up, in bytes a request: the least-squares line through the samples."""
    end = samples[-1][0]
    late = [(calls, size) for seconds, calls, size in samples if seconds >= WARM_UP * end]
    calls, sizes = np.array(late, dtype=np.float64).T
    return float(np.polyfit(calls, sizes, 1)[0])


def test_the_slope_tells_a_leak_from_a_plateau() -> None:
    noise = np.random.default_rng(0).normal(0, MIB / 4, 600)
    flat = [(float(s), s * 800, int(80 * MIB + min(s, 100) * MIB / 10 + noise[s])) for s in range(600)]
    leaking = [(seconds, calls, size + 50 * calls) for seconds, calls, size in flat]

    assert abs(growth(flat)) < LEAK_BYTES / 4
    assert growth(leaking) > LEAK_BYTES


@pytest.mark.timeout(SECONDS + 180)
def test_memory_is_flat_and_no_request_fails(say: Callable[[str], None], tmp_path: Path) -> None:
    uris = {
        version: write_model(tmp_path / version, {"type": "linear", "weights": [factor, factor]})
        for version, factor in FACTORS.items()
    }
    (tmp_path / "token").write_text(TOKEN)
    env = {
        "MODELYARD_ADMIN_TOKEN_FILE": str(tmp_path / "token"),
        "MODELYARD_MODEL_VERSION": "one",
        "MODELYARD_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "MODELYARD_CACHE_MAX_BYTES": "524288",  # full within the warm-up
        "MODELYARD_MAX_CONNECTION_AGE": "15",
    }
    with start_server(tmp_path / "server", {"type": "linear", "weights": [1, 1]}, **env) as server:
        server.wait_for("/health/ready", 200)

        async def scenario() -> Record:
            limits = httpx.Limits(max_connections=100)
            async with (
                httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http,
                triton_aio.InferenceServerClient(f"{server.host}:{server.grpc_port}") as rpc,
            ):
                clients = Clients(server, http, rpc, uris, random.Random(0))
                for version, uri in uris.items():
                    new = {"name": "churn", "version": version, "uri": uri}
                    (
                        await http.post("/models", json=new, headers={"authorization": f"Bearer {TOKEN}"})
                    ).raise_for_status()
                return await run(clients, psutil.Process(server.process.pid), say)

        record = asyncio.run(scenario())
        server.process.terminate()
        code = server.finish()

    slope = growth(record.samples)
    say(f"memory grew by {slope:.1f} bytes a request after the warm-up; at most {LEAK_BYTES:.0f} are allowed")
    say(", ".join(f"{count} {kind}" for kind, count in record.calls.items()))
    assert record.failures == []
    assert all(count > 0 for count in record.calls.values())
    assert slope < LEAK_BYTES
    assert code == 0


async def run(clients: Clients, process: psutil.Process, say: Callable[[str], None]) -> Record:
    """Load the server for SECONDS and record what happens; a kind of call that has failed is not repeated."""
    record = Record(Counter(dict.fromkeys(clients.kinds(), 0)))
    start = time.monotonic()

    async def repeat(kind: str, call: Callable[[], Awaitable[None]], pause: float) -> None:
        while time.monotonic() - start < SECONDS:
            try:
                await call()
            except Exception as exc:
                record.failures.append(f"{kind} after {time.monotonic() - start:.0f} s: {type(exc).__name__}: {exc}")
                return
            record.calls[kind] += 1
            await asyncio.sleep(pause)

    async def watch() -> None:
        said = 0.0
        while (seconds := time.monotonic() - start) < SECONDS:
            record.samples.append((seconds, record.calls.total(), memory(process)))
            if seconds - said >= 10:
                said = seconds
                size = record.samples[-1][2] / MIB
                say(
                    f"{seconds:4.0f} of {SECONDS:.0f} s: {record.calls.total()} requests, {size:.1f} MiB, "
                    f"{len(record.failures)} failures"
                )
            await asyncio.sleep(1)

    tasks = [
        asyncio.create_task(repeat(kind, call, pause))
        for kind, (call, many, pause) in clients.kinds().items()
        for _ in range(many)
    ]
    await asyncio.gather(watch(), *tasks)
    return record


def memory(process: psutil.Process) -> int:
    """Return the resident bytes of a server and its workers."""
    return int(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
