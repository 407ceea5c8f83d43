"""Clients that never stop asking while their server ends: over HTTP on kept and on new connections, and over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from unit.runtime.support import SUM, Server, start_server
from waiting import eventually_async

BODY = json.dumps({"features": [1, 2]}).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
KEPT, NEW, GRPC = "kept connections", "new connections", "gRPC"
WORKERS = (1, 2)
"""Numbers of a server's processes to try."""


@dataclass
class Tally:
    """What the clients saw: answers by kind of client and by the version that gave them."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    ending: bool = False
    """Whether the first server has been told to end."""
    stop: bool = False

    def each(self, version: str, least: int) -> bool:
        """Return whether every kind of client has had `least` answers of `version`."""
        return all(self.answers[kind, version] >= least for kind in (KEPT, NEW, GRPC))


async def keep_asking(ports: Sequence[int], tally: Tally, kind: str) -> None:
    """Ask for as long as a connection lasts (or once, as `kind` says), then on a new one: to the first that accepts."""
    left = list(ports)
    while not tally.stop:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", left[0])
        except ConnectionRefusedError:
            if len(left) == 1:
                tally.failures.append(f"{kind}: no server accepts connections")
                return
            del left[0]  # it has ended
            continue
        try:
            await _ask(reader, writer, tally, kind)
        except (OSError, asyncio.IncompleteReadError) as exc:
            tally.failures.append(f"{kind}: {left[0]}: {exc!r}")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tally: Tally, kind: str) -> None:
    while not tally.stop:
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        if not head.startswith(b"http/1.1 200 ") or answer["prediction"] != 3.0:
            tally.failures.append(f"{kind}: {head!r} {answer}")
        tally.answers[kind, answer.get("model_version", "")] += 1
        if kind == NEW or b"connection: close" in head:
            return


def keep_calling(ports: Sequence[int], tally: Tally) -> None:
    """Call with tritonclient and gRPC's own ways to reconnect: the first address that accepts."""
    rows = triton.InferInput("features", [1, 2], "FP64")
    rows.set_data_from_numpy(np.array([[1.0, 2.0]]))
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    # Without the option, clients of one target in one process share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    while not tally.stop:
        with triton.InferenceServerClient(target, channel_args=options) as client:
            _call(client, rows, tally)


def _call(client: Any, rows: Any, tally: Tally) -> None:
    while not tally.stop:
        try:
            result = client.infer("churn", [rows], client_timeout=60)
        except InferenceServerException as exc:
            tally.failures.append(f"{GRPC}: {exc}")
            tally.stop = True
            return
        version = result.get_response().model_version
        if result.as_numpy("prediction").tolist() != [3.0]:
            tally.failures.append(f"{GRPC}: {result.get_response()}")
        tally.answers[GRPC, version] += 1
        if version == "new" and not tally.ending:
            return  # the first address took a quarter of a second to accept, and gRPC has tried the next: again


def end_under_load(folder: Path, other: Server, *, workers: int = 1, answers: int = 300, **env: str) -> Tally:
    """Send SIGTERM to a server of the version `old` under load, while `other`, of the version `new`, takes over.

    Every kind of client gets `answers` answers of the one before, and of the other after. Fails where the exit code
    is not 0; what the clients saw is for the caller to judge.
    """
    if workers > 1:
        env["MODELYARD_WORKERS"] = str(workers)
    tally = Tally()
    with start_server(folder, SUM, MODELYARD_MODEL_VERSION="old", **env) as old:
        old.wait_for("/health/ready", 200)

        async def scenario() -> int:
            http, rpc = (old.port, other.port), (old.grpc_port, other.grpc_port)
            clients = [asyncio.create_task(keep_asking(http, tally, kind)) for kind in [KEPT] * 16 + [NEW] * 8]
            callers = [asyncio.create_task(asyncio.to_thread(keep_calling, rpc, tally)) for _ in range(3)]
            try:
                await eventually_async(lambda: bool(tally.failures) or tally.each("old", answers))
                tally.ending = True
                old.process.terminate()
                code = await asyncio.to_thread(old.finish)
                await eventually_async(lambda: bool(tally.failures) or tally.each("new", answers))
            finally:
                tally.stop = True
                await asyncio.gather(*clients, *callers)
            return code

        assert asyncio.run(scenario()) == 0
    return tally
