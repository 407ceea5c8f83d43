"""Loading and unloading as tritonclient does it, in all its forms, while others of its clients ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as rpc
import tritonclient.grpc.aio as rpc_aio
import tritonclient.http as rest
import tritonclient.http.aio as rest_aio
from tritonclient.utils import InferenceServerException
from unit.runtime.support import SUM, Server, start_server, write_model

TOKEN = {"authorization": "Bearer s3cret"}


@dataclass
class Asked:
    """What clients were answered: versions with their predictions, and errors."""

    end: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[str, float, bool]] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)

    def wait_for_more(self) -> None:
        """Wait until each client has surely been answered again; the test's own timeout bounds it."""
        wanted = len(self.answers) + len(self.errors) + 100
        while len(self.answers) + len(self.errors) < wanted:
            self.end.wait(0.005)


def change_over_rest(server: Server, verb: str, **kwargs: Any) -> None:
    with rest.InferenceServerClient(f"{server.host}:{server.port}") as client:
        getattr(client, verb)("n", headers=TOKEN, **kwargs)


def change_over_grpc(server: Server, verb: str, **kwargs: Any) -> None:
    with rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        getattr(client, verb)("n", headers=TOKEN, **kwargs)


def change_over_rest_aio(server: Server, verb: str, **kwargs: Any) -> None:
    async def change() -> None:
        async with rest_aio.InferenceServerClient(f"{server.host}:{server.port}") as client:
            await getattr(client, verb)("n", headers=TOKEN, **kwargs)

    asyncio.run(change())


def change_over_grpc_aio(server: Server, verb: str, **kwargs: Any) -> None:
    async def change() -> None:
        async with rpc_aio.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
            await getattr(client, verb)("n", headers=TOKEN, **kwargs)

    asyncio.run(change())


CHANGES = [change_over_rest, change_over_grpc, change_over_rest_aio, change_over_grpc_aio]


def tensor(module: Any) -> Any:
    made = module.InferInput("features", [1, 2], "FP64")
    made.set_data_from_numpy(np.array([[1.0, 2.0]]))
    return made


def answer(result: Any) -> tuple[str, float, bool]:
    response = result.get_response()
    if isinstance(response, dict):
        return response["model_version"], result.as_numpy("prediction").item(), response["parameters"]["cached"]
    return response.model_version, result.as_numpy("prediction").item(), response.parameters["cached"].bool_param


async def keep_asking(infer: Callable[[], Awaitable[Any]], asked: Asked) -> None:
    while not asked.end.is_set():
        try:
            asked.answers.append(answer(await infer()))
        except InferenceServerException as exc:
            asked.errors.add(f"{exc.status()} {exc.message()}")


@contextmanager
def clients(server: Server, asked: Asked) -> Iterator[None]:
    """Ask with the sync and aio clients of REST and gRPC until the block ends."""
    wish = {"use_cache": True}

    def over_rest() -> None:
        async def ask() -> None:
            with rest.InferenceServerClient(f"{server.host}:{server.port}") as client:

                async def infer() -> Any:
                    return client.infer("n", [tensor(rest)], parameters=wish)

                await keep_asking(infer, asked)

        asyncio.run(ask())

    def over_grpc() -> None:
        async def ask() -> None:
            with rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:

                async def infer() -> Any:
                    return client.infer("n", [tensor(rpc)], parameters=wish)

                await keep_asking(infer, asked)

        asyncio.run(ask())

    def over_aio() -> None:
        async def ask() -> None:
            async with (
                rest_aio.InferenceServerClient(f"{server.host}:{server.port}") as one,
                rpc_aio.InferenceServerClient(f"{server.host}:{server.grpc_port}") as other,
            ):
                await asyncio.gather(
                    keep_asking(lambda: one.infer("n", [tensor(rest)], parameters=wish), asked),
                    keep_asking(lambda: other.infer("n", [tensor(rpc)], parameters=wish), asked),
                )

        asyncio.run(ask())

    threads = [threading.Thread(target=target) for target in (over_rest, over_grpc, over_aio)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        asked.end.set()
        for thread in threads:
            thread.join()


def register(server: Server, folder: Path, weight: float) -> None:
    body = {"name": "n", "uri": model(folder, weight)}
    assert httpx.post(f"{server.url}/models", json=body, headers=TOKEN, timeout=30).status_code == 201


def model(folder: Path, weight: float) -> str:
    return write_model(folder / "n", {"type": "linear", "weights": [weight, weight]})


def version(server: Server) -> str:
    found: str = httpx.get(f"{server.url}/models/n").json()["version"]
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "token").write_text("s3cret")
    with start_server(tmp_path, SUM, MODELYARD_ADMIN_TOKEN_FILE=str(tmp_path / "token")) as started:
        started.wait_for("/health/ready", 200)
        register(started, tmp_path, 1)
        yield started


def test_loads_and_activations_under_load_leave_no_request_without_an_answer(server: Server, tmp_path: Path) -> None:
    """And every answer, cached or not, is that of its version."""
    predictions, asked = {version(server): 3.0}, Asked()

    with clients(server, asked):
        for weight in range(2, 10):
            before = version(server)
            asked.wait_for_more()
            model(tmp_path, weight)
            CHANGES[weight % 4](server, "load_model")
            predictions[version(server)] = 3.0 * weight
            asked.wait_for_more()
            back = httpx.post(f"{server.url}/models/n/versions/{before}/activate", headers=TOKEN)
            assert back.status_code == 200
        asked.wait_for_more()

    assert asked.errors == set()
    assert {(name, prediction) for name, prediction, _ in asked.answers} <= set(predictions.items())
    assert len({name for name, _, _ in asked.answers}) >= 5
    assert {cached for _, _, cached in asked.answers} == {True, False}


def test_unloads_under_load_are_told_and_loads_bring_answers_back(server: Server, tmp_path: Path) -> None:
    predictions, asked = {version(server): 3.0}, Asked()

    with clients(server, asked):
        for index, change in enumerate(CHANGES):
            asked.wait_for_more()
            change(server, "unload_model")
            assert httpx.get(f"{server.url}/models/n").json() == {"name": "n", "state": "unloaded"}
            model(tmp_path, index + 2)
            CHANGES[(index + 1) % 4](server, "load_model")
            predictions[version(server)] = 3.0 * (index + 2)
        asked.wait_for_more()

    unloaded = "the model n is unloaded; POST /v2/repository/models/n/load brings it up again"
    assert asked.errors <= {f"503 {unloaded}", f"StatusCode.UNAVAILABLE {unloaded}"}
    assert {(name, prediction) for name, prediction, _ in asked.answers} <= set(predictions.items())
    assert (version(server), 15.0) in {(name, prediction) for name, prediction, _ in asked.answers}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_clients_can_send_besides(change: Callable[..., None], server: Server) -> None:
    change(server, "unload_model", unload_dependents=True)

    with rest.InferenceServerClient(f"{server.host}:{server.port}") as client:
        assert not client.is_model_ready("n")
        assert client.get_model_repository_index()[1] == {"name": "n", "state": "UNAVAILABLE", "reason": "unloaded"}
    with rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        assert not client.is_model_ready("n")
        entry = client.get_model_repository_index().models[1]
        assert (entry.name, entry.state, entry.reason) == ("n", "UNAVAILABLE", "unloaded")

    with pytest.raises(InferenceServerException, match=r"(?s)(501|UNIMPLEMENTED).*'config' is unsupported"):
        change(server, "load_model", config="{}")


def test_who_has_not_the_token_changes_nothing(server: Server) -> None:
    for headers in (None, {"authorization": "Bearer other"}):
        with (
            rest.InferenceServerClient(f"{server.host}:{server.port}") as over_rest,
            rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as over_grpc,
        ):
            for client, code in ((over_rest, "403"), (over_grpc, "PERMISSION_DENIED")):
                for change in (client.load_model, client.unload_model):
                    with pytest.raises(InferenceServerException, match=rf"{code}.*Authorization: Bearer TOKEN"):
                        change("n", headers=headers)
                assert client.is_model_ready("n")


def test_errors_of_grpc(server: Server, tmp_path: Path) -> None:
    with rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*give its uri to POST /models"):
            client.load_model("other", headers=TOKEN)
        with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED.*'file:1/model.json' is unsupported"):
            client.load_model("n", headers=TOKEN, files={"file:1/model.json": b"{}"})
        write_model(tmp_path / "n", {"type": "linear", "weights": ["x"]})
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*LoadFailed: weights of model.json"):
            client.load_model("n", headers=TOKEN)
        assert client.is_model_ready("n")
        assert "model_repository" in client.get_server_metadata().extensions


def test_a_load_goes_on_when_its_client_gives_up(server: Server, tmp_path: Path) -> None:
    before = version(server)
    model(tmp_path, 2)

    with rpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        try:
            client.load_model("n", headers=TOKEN, client_timeout=0.001)
        except InferenceServerException as exc:
            assert "DEADLINE_EXCEEDED" in str(exc)  # noqa: PT017 -- a quick machine has loaded it by then
        client.load_model("n", headers=TOKEN)

    assert version(server) != before
