"""A swap under load: every answer is one version's own, none is missing, and nobody is taken back to an older one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from unit.runtime.support import Server, start_server, write_model
from waiting import eventually_async

ROW = [1.0, 2.0]
VERSIONS = 6
TOKEN = {"authorization": "Bearer s3cret"}
Ask = Callable[[], Awaitable[tuple[str, float]]]


def model(factor: int) -> dict[str, object]:
    """Return a model whose answer to the row names its version."""
    return {"type": "linear", "weights": [factor, factor]}


def seed(http: httpx.AsyncClient, *, use_cache: bool) -> Ask:
    async def ask() -> tuple[str, float]:
        response = await http.post("/predict", json={"features": ROW, "use_cache": use_cache})
        body = response.raise_for_status().json()
        return body["model_version"], body["prediction"]

    return ask


def v2(http: httpx.AsyncClient) -> Ask:
    tensor = {"name": "features", "shape": [1, 2], "datatype": "FP64", "data": ROW}

    async def ask() -> tuple[str, float]:
        response = await http.post("/v2/models/churn/infer", json={"inputs": [tensor]})
        body = response.raise_for_status().json()
        return body["model_version"], body["outputs"][0]["data"][0]

    return ask


def rpc(client: triton_aio.InferenceServerClient) -> Ask:
    tensor = triton.InferInput("features", [1, 2], "FP64")
    tensor.set_data_from_numpy(np.array([ROW]))

    async def ask() -> tuple[str, float]:
        result = await client.infer("churn", [tensor], client_timeout=60)
        return result.get_response().model_version, result.as_numpy("prediction").item()

    return ask


async def load_while_asking(server: Server, uris: dict[str, str]) -> list[list[tuple[str, float]]]:
    """Load one version after the other while each client asks on a connection of its own; return what each was told.

    An answer that does not come raises.
    """
    connections = [httpx.AsyncClient(base_url=server.url, timeout=60) for _ in range(9)]
    channels = [
        triton_aio.InferenceServerClient(
            f"{server.host}:{server.grpc_port}", channel_args=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(3)
    ]
    asks = [seed(http, use_cache=False) for http in connections[:3]]
    asks += [seed(http, use_cache=True) for http in connections[3:6]]
    asks += [v2(http) for http in connections[6:]]
    asks += [rpc(client) for client in channels]
    told: list[list[tuple[str, float]]] = [[] for _ in asks]
    done = False

    async def repeat(ask: Ask, answers: list[tuple[str, float]]) -> None:
        while not done:
            answers.append(await ask())

    async with asyncio.TaskGroup() as group, httpx.AsyncClient(base_url=server.url, timeout=60) as admin:
        for ask, answers in zip(asks, told, strict=True):
            group.create_task(repeat(ask, answers))
        for version, uri in uris.items():
            new = {"name": "churn", "version": version, "uri": uri}
            (await admin.post("/models", json=new, headers=TOKEN)).raise_for_status()
            before = [len(answers) for answers in told]
            await eventually_async(lambda before=before: all(len(a) > n + 5 for a, n in zip(told, before, strict=True)))  # type: ignore[misc]
        done = True
    for client in (*connections, *channels):
        await (client.aclose() if isinstance(client, httpx.AsyncClient) else client.close())
    return told


def test_every_answer_is_of_one_version_and_versions_never_go_back(tmp_path: Path) -> None:
    uris = {str(factor): write_model(tmp_path / str(factor), model(factor)) for factor in range(2, VERSIONS + 1)}
    (tmp_path / "token").write_text("s3cret")
    env = {"MODELYARD_ADMIN_TOKEN_FILE": str(tmp_path / "token"), "MODELYARD_MODEL_VERSION": "1"}
    with start_server(tmp_path / "server", model(1), **env) as server:
        server.wait_for("/health/ready", 200)

        told = asyncio.run(load_while_asking(server, uris))

    for answers in told:
        assert [(version, prediction) for version, prediction in answers if prediction != int(version) * sum(ROW)] == []
        versions = [int(version) for version, _ in answers]
        assert versions == sorted(versions)
        assert versions[-1] == VERSIONS
    assert {int(version) for answers in told for version, _ in answers} >= set(range(2, VERSIONS + 1))
