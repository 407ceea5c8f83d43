"""The model repository extension: who may load and unload, what it does, and what a failure leaves as it was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard_runtime.dataplane.catalog import Source, signature_of
from unit.runtime.support import Api, FakeModel, write_model
from waiting import eventually_async

TOKEN = {"authorization": "Bearer s3cret"}
REPOSITORY = "/v2/repository/models"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """A server with the model n, weights 1, whose source is in the folder `n`."""
    (tmp_path / "token").write_text("s3cret\n")
    api = Api({}, admin_token_file=tmp_path / "token")
    assert register(api, tmp_path, 1).status_code == 201
    yield api
    api.app.close()


def model(folder: Path, weight: Any) -> str:
    return write_model(folder / "n", {"type": "linear", "weights": [weight, weight]})


def register(api: Api, folder: Path, weight: float, **fields: Any) -> httpx.Response:
    body = {"name": "n", "uri": model(folder, weight), **fields}
    return api.send("POST", "/models", json=body, headers=TOKEN)


def change(api: Api, verb: str, name: str = "n", **kwargs: Any) -> httpx.Response:
    return api.send("POST", f"{REPOSITORY}/{name}/{verb}", headers=TOKEN, **kwargs)


def ask(api: Api, **fields: Any) -> Any:
    return api.predict({"model_name": "n", "features": [1, 2], **fields}).json()


def index(api: Api, **fields: Any) -> Any:
    return api.send("POST", "/v2/repository/index", json=fields).json()


def test_load_brings_up_what_is_at_the_source_now(tmp_path: Path, api: Api) -> None:
    before = ask(api, use_cache=True)
    model(tmp_path, 10)

    response = change(api, "load")

    after = ask(api, use_cache=True)
    assert (response.status_code, response.content) == (200, b"")
    assert (before["prediction"], after["prediction"], after["cached"]) == (3.0, 30.0, False)
    assert before["model_version"] != after["model_version"]
    assert index(api) == [{"name": "n", "version": after["model_version"], "state": "READY", "reason": ""}]


def test_what_does_not_load_leaves_what_is_served_and_says_why(tmp_path: Path, api: Api) -> None:
    before = ask(api)
    model(tmp_path, "x")

    response = change(api, "load")

    assert response.status_code == 400
    assert response.json()["error"].startswith("LoadFailed: weights of model.json needs to be made of numbers only")
    assert (ask(api)["prediction"], ask(api)["model_version"]) == (3.0, before["model_version"])
    assert api.send("GET", "/health/ready").status_code == 200


def test_a_model_that_is_unloaded_stays_known_and_says_so_in_every_protocol(api: Api) -> None:
    api.activate("other", "1", FakeModel())

    response = change(api, "unload")

    assert (response.status_code, response.content) == (200, b"")
    assert index(api)[0] == {"name": "n", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert [entry["name"] for entry in index(api, ready=True)] == ["other"]
    assert api.send("GET", "/models").json()["models"][0] == {"name": "n", "state": "unloaded"}
    assert api.send("GET", "/models/n").json() == {"name": "n", "state": "unloaded"}
    ready = api.send("GET", "/v2/models/n/ready")
    assert ready.status_code == 503
    assert "POST /v2/repository/models/n/load brings it up again" in ready.json()["error"]
    over_v1 = api.send("GET", "/v1/models/n").json()
    assert (over_v1["ready"], over_v1["model_version_status"][0]["state"]) == (False, "END")
    tensor = {"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    for path, body in (
        ("/predict", {"model_name": "n", "features": [1, 2]}),
        ("/v1/models/n:predict", {"instances": [[1, 2]]}),
        ("/v2/models/n/infer", {"inputs": [tensor]}),
    ):
        assert api.predict(body, path).status_code == 503
    assert "model_info{digest" in api.send("GET", "/metrics").text
    assert 'model="n"' not in "".join(
        line for line in api.send("GET", "/metrics").text.splitlines() if "model_info{" in line
    )


def test_an_unloaded_model_does_not_count_for_the_servers_health_unless_nothing_else_answers(api: Api) -> None:
    api.activate("other", "1", FakeModel())
    change(api, "unload")
    beside = api.send("GET", "/health/ready")

    change(api, "unload", "other")
    alone = api.send("GET", "/health")

    assert (beside.status_code, beside.json()["status"]) == (200, "ready")
    assert (alone.status_code, alone.json()) == (
        503,
        {"status": "unloaded", "models": {"n": "unloaded", "other": "unloaded"}},
    )


def test_load_brings_an_unloaded_model_back(tmp_path: Path, api: Api) -> None:
    change(api, "unload")
    again = change(api, "unload")
    model(tmp_path, "x")
    failed = change(api, "load")
    between = index(api)
    model(tmp_path, 2)

    loaded = change(api, "load")

    assert [response.status_code for response in (again, failed, loaded)] == [200, 400, 200]
    assert (between[0]["state"], between[0]["reason"]) == ("UNAVAILABLE", "unloaded")
    assert ask(api)["prediction"] == 6.0


def test_load_takes_the_source_of_the_version_that_answers(tmp_path: Path, api: Api) -> None:
    first = ask(api)["model_version"]
    register(api, tmp_path / "second", 2, version="second")
    change(api, "load")
    second = ask(api)
    api.send("POST", f"/models/n/versions/{first}/activate", headers=TOKEN)

    change(api, "unload")
    change(api, "load")

    assert (second["prediction"], second["model_version"]) == (6.0, "second")
    assert (ask(api)["prediction"], ask(api)["model_version"]) == (3.0, first)


def test_delete_forgets_an_unloaded_model_too(api: Api) -> None:
    change(api, "unload")

    deleted = api.send("DELETE", "/models/n", headers=TOKEN)

    assert (deleted.status_code, deleted.json()) == (200, {"name": "n", "version": "", "versions": []})
    assert index(api) == []
    for verb in ("load", "unload"):
        assert change(api, verb).status_code == 404


def test_an_unloaded_model_may_be_registered_again(tmp_path: Path, api: Api) -> None:
    change(api, "unload")

    beside = register(api, tmp_path / "b", 2, version="b", activate=False)
    state = index(api)[0]["state"]
    api.send("POST", "/models/n/versions/b/activate", headers=TOKEN)

    assert (beside.status_code, beside.json()) == (201, {"name": "n", "version": "", "versions": ["b"]})
    assert state == "UNAVAILABLE"
    assert (ask(api)["prediction"], ask(api)["model_version"]) == (6.0, "b")


def test_an_unknown_model_is_a_404_that_says_what_to_do(api: Api) -> None:
    response = change(api, "load", "new")

    assert response.status_code == 404
    assert response.json() == {"error": "no model 'new' is known here; give its uri to POST /models"}


@pytest.mark.parametrize(
    ("verb", "body", "status", "message"),
    [
        ("load", {"parameters": {"config": "{}"}}, 501, "the parameter 'config' is unsupported"),
        ("load", {"parameters": {"file:1/model.json": "e30="}}, 501, "'file:1/model.json' is unsupported"),
        ("load", {"parameters": {"unload_dependents": True}}, 400, "loading takes none"),
        ("load", {"parameters": 1}, 400, "the body needs to be"),
        ("load", [], 400, "the body needs to be an object"),
        ("load", {"config": "{}"}, 400, "the body needs to be"),
        ("unload", {"parameters": {"unload_dependents": "true"}}, 400, "true or false"),
        ("unload", {"parameters": {"force": True}}, 400, "there is no parameter 'force'"),
    ],
)
def test_what_would_mean_something_else_is_refused(api: Api, verb: str, body: Any, status: int, message: str) -> None:
    response = change(api, verb, json=body)

    assert response.status_code == status
    assert message in response.json()["error"]
    assert ask(api)["prediction"] == 3.0


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}', b'{"parameters": {"unload_dependents": true}}'])
def test_dependents_may_be_named_as_there_are_none(api: Api, body: bytes) -> None:
    assert change(api, "unload", content=body).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}])
@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize("name", ["n", "other"])
def test_without_the_token_nothing_changes(api: Api, verb: str, name: str, headers: dict[str, str]) -> None:
    response = api.send("POST", f"{REPOSITORY}/{name}/{verb}", headers=headers, content=b"not JSON")

    assert response.status_code == 403
    assert "Authorization: Bearer TOKEN" in response.json()["error"]
    assert ask(api)["prediction"] == 3.0


def test_the_extension_is_named_where_models_may_be_changed(api: Api) -> None:
    closed = Api({"m": FakeModel()})

    named = [server.send("GET", "/v2").json()["extensions"] for server in (api, closed)]
    refused = closed.send("POST", f"{REPOSITORY}/m/load", headers=TOKEN)

    closed.app.close()
    assert named[1] == ["binary_tensor_data", "model_configuration", "statistics"]
    assert sorted({*named[0]} - {*named[1]}) == ["model_repository", "model_repository(unload_dependents)"]
    assert (refused.status_code, "edit the ModelDeployment's spec.model" in refused.json()["error"]) == (403, True)


def test_a_request_that_has_begun_is_finished(api: Api) -> None:
    gate, started = threading.Event(), threading.Event()

    def answer(rows: Any) -> Any:
        started.set()
        assert gate.wait(30)
        return rows.sum(axis=1)

    api.activate("slow", "1", FakeModel(answer=answer, inline=False))

    async def scenario() -> httpx.Response:
        body = {"model_name": "slow", "features": [1, 2], "use_cache": True}
        running = asyncio.create_task(api.request("POST", "/predict", json=body))
        await asyncio.to_thread(started.wait, 30)
        assert (await api.request("POST", f"{REPOSITORY}/slow/unload", headers=TOKEN)).status_code == 200
        assert (await api.request("POST", "/predict", json=body)).status_code == 503
        gate.set()
        return await running

    response = asyncio.run(scenario())

    assert (response.status_code, response.json()["prediction"]) == (200, 3.0)


def test_what_is_changed_while_it_loads_is_changed_afterwards(api: Api) -> None:
    async def begun() -> None:
        while not api.app.catalog._changing["n"].locked():  # noqa: ASYNC110 -- nobody announces it
            await asyncio.sleep(0)

    async def scenario() -> list[int]:
        loading = asyncio.create_task(api.request("POST", f"{REPOSITORY}/n/load", headers=TOKEN))
        await begun()
        unloaded = await api.request("POST", f"{REPOSITORY}/n/unload", headers=TOKEN)
        assert api.app.registry.active("n") is None
        again = asyncio.create_task(api.request("POST", f"{REPOSITORY}/n/load", headers=TOKEN))
        await begun()
        deleted = await api.request("DELETE", "/models/n", headers=TOKEN)
        last = await api.request("POST", f"{REPOSITORY}/n/load", headers=TOKEN)
        return [response.status_code for response in (await loading, unloaded, await again, deleted, last)]

    assert asyncio.run(scenario()) == [200, 200, 200, 200, 404]
    assert index(api) == []


def test_a_model_that_was_unloaded_is_not_brought_back_by_a_change_of_its_files(tmp_path: Path, api: Api) -> None:
    source = Source(name="n", uri=model(tmp_path, 1))

    async def scenario() -> tuple[Any, Any]:
        watching = asyncio.create_task(api.app.catalog.watch(source, signature_of(source)))
        await api.request("POST", f"{REPOSITORY}/n/unload", headers=TOKEN)
        await asyncio.sleep(0.1)  # it has seen the files as they were
        model(tmp_path, 5)
        await asyncio.sleep(2.5)
        unloaded = api.app.registry.active("n")
        await api.request("POST", f"{REPOSITORY}/n/load", headers=TOKEN)
        model(tmp_path, 7)
        loaded = api.app.registry.active("n")
        await eventually_async(lambda: api.app.registry.active("n") is not loaded)
        watching.cancel()
        return unloaded, api.app.registry.active("n")

    unloaded, now = asyncio.run(scenario())

    assert unloaded is None
    assert now is not None
    assert ask(api)["prediction"] == 21.0


def test_files_that_were_fetched_go_with_their_version(tmp_path: Path, api: Api) -> None:
    root = api.app.catalog._root
    assert root is not None
    change(api, "load")
    folders = len(list(root.iterdir()))

    change(api, "unload")

    async def gone() -> None:
        await eventually_async(lambda: not list(root.iterdir()))

    asyncio.run(gone())
    assert folders >= 1
