"""SIGTERM under load over gRPC: clients that know two servers move to the other one, and none of their calls fails."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException
from unit.runtime.support import SUM, Server, start_server
from waiting import eventually_async


@dataclass
class Tally:
    """What the clients saw."""

    answers: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stop: bool = False


async def keep_asking(client: triton.InferenceServerClient, tally: Tally) -> None:
    inputs = triton.InferInput("features", [1, 2], "FP64")
    inputs.set_data_from_numpy(np.array([[1.0, 2.0]]))
    while not tally.stop:
        try:
            answer = await client.infer("churn", [inputs])
        except InferenceServerException as exc:
            tally.failures.append(str(exc))
            continue
        version = answer.get_response().model_version
        if answer.as_numpy("prediction").tolist() != [3.0]:
            tally.failures.append(str(answer.get_response()))
        tally.answers[version] = tally.answers.get(version, 0) + 1


async def renew(target: str, tally: Tally) -> None:
    """Ask on a connection of its own for a moment, then on a new one."""
    while not tally.stop:
        # Without a pool of its own, a channel would take another channel's connection.
        async with triton.InferenceServerClient(target, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            until_stop = Tally(answers=tally.answers, failures=tally.failures)
            asking = asyncio.create_task(keep_asking(client, until_stop))
            await asyncio.sleep(0.05)
            until_stop.stop = True
            await asking


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("drain_delay", ["0", "0.5"])
def test_sigterm_under_load_fails_no_call(workers: str, drain_delay: str, tmp_path: Path) -> None:
    def start(name: str, **env: str) -> AbstractContextManager[Server]:
        return start_server(tmp_path / name, SUM, MODELYARD_MODEL_VERSION=name, **env)

    with start("old", MODELYARD_DRAIN_DELAY=drain_delay, MODELYARD_WORKERS=workers) as old, start("new") as new:
        old.wait_for("/health/ready", 200)
        new.wait_for("/health/ready", 200)
        tally = Tally()

        code = asyncio.run(_end_under_load(old, new, tally))

        assert tally.failures == []
        assert code == 0


def test_a_client_is_told_to_go_and_then_not_waited_for(tmp_path: Path) -> None:
    """GOAWAY comes first for all streams, so that calls on their way are still taken (RFC 9113, 6.8)."""
    with start_server(tmp_path, SUM, MODELYARD_TIMEOUT="1000") as server:
        server.wait_for("/health/ready", 200)
        with socket.create_connection((server.host, server.grpc_port), timeout=60) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            received = connection.recv(65536)
            server.process.terminate()

            code = server.finish()

            received += b"".join(iter(lambda: connection.recv(65536), b""))
        _, log = server.process.communicate(timeout=60)

    assert code == 0
    assert bytes.fromhex("0000080700000000007fffffff00000000") in received
    assert len(log.splitlines()) == 1


async def _end_under_load(old: Server, new: Server, tally: Tally) -> int:
    target = f"ipv4:{old.host}:{old.grpc_port},{new.host}:{new.grpc_port}"
    lasting = [
        triton.InferenceServerClient(target, channel_args=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)
    ]
    clients = [asyncio.create_task(keep_asking(client, tally)) for client in lasting for _ in range(2)]
    clients += [asyncio.create_task(renew(target, tally)) for _ in range(4)]
    await eventually_async(lambda: tally.answers.get("old", 0) >= 500)
    old.process.terminate()
    code = await asyncio.to_thread(old.finish)
    enough = tally.answers.get("new", 0) + 500
    await eventually_async(lambda: tally.answers.get("new", 0) >= enough)
    tally.stop = True
    await asyncio.gather(*clients)
    for client in lasting:
        await client.close()
    return code
