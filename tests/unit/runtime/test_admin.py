"""Models that are loaded, activated and unloaded over HTTP: with the admin token only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelyard_runtime.errors import SettingsError
from unit.runtime.support import Api, FakeModel, write_model

TOKEN = {"authorization": "Bearer s3cret"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "token").write_text("s3cret\n")
    api = Api({"m": FakeModel()}, admin_token_file=tmp_path / "token")
    yield api
    api.app.close()


def model(folder: Path, weight: float) -> str:
    return write_model(folder, {"type": "linear", "weights": [weight, weight]})


def load(api: Api, **body: Any) -> tuple[int, Any]:
    response = api.send("POST", "/models", json=body, headers=TOKEN)
    return response.status_code, response.json()


def ask(api: Api, name: str) -> tuple[float, str]:
    body = api.predict({"model_name": name, "features": [1, 2]}).json()
    return body["prediction"], body["model_version"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/models"), ("DELETE", "/models/m"), ("POST", "/models/m/versions/1/activate")]
)
def test_without_the_token_nothing_changes(method: str, path: str, headers: dict[str, str], api: Api) -> None:
    response = api.send(method, path, headers=headers)

    assert response.status_code == 403
    assert "Authorization: Bearer TOKEN" in response.json()["error"]
    assert ask(api, "m") == (3.0, "1")


def test_a_model_is_loaded_beside_others(tmp_path: Path, api: Api) -> None:
    answer = load(api, name="new", uri=model(tmp_path / "new", 10), version="7")

    assert answer == (201, {"name": "new", "version": "7", "versions": ["7"]})
    assert (ask(api, "new"), ask(api, "m")) == ((30.0, "7"), (3.0, "1"))


def test_versions_are_loaded_activated_and_gone_back_to(tmp_path: Path, api: Api) -> None:
    load(api, name="n", uri=model(tmp_path / "1", 1), version="1")
    load(api, name="n", uri=model(tmp_path / "2", 2), version="2", activate=False)
    before = ask(api, "n")

    activated = api.send("POST", "/models/n/versions/2/activate", headers=TOKEN)
    after = ask(api, "n")
    api.send("POST", "/models/n/versions/1/activate", headers=TOKEN)

    assert (before, after, ask(api, "n")) == ((3.0, "1"), (6.0, "2"), (3.0, "1"))
    assert activated.json() == {"name": "n", "version": "2", "versions": ["1", "2"]}


def test_metrics_name_the_version_that_answers(tmp_path: Path, api: Api) -> None:
    load(api, name="n", uri=model(tmp_path / "1", 1), version="1")
    load(api, name="n", uri=model(tmp_path / "2", 2), version="2")

    lines = [line for line in api.send("GET", "/metrics").text.splitlines() if "model_info{" in line]

    assert [line for line in lines if 'model="n"' in line and 'version="2"' in line] != []
    assert [line for line in lines if 'model="n"' in line and 'version="1"' in line] == []


def test_a_model_is_unloaded(tmp_path: Path, api: Api) -> None:
    load(api, name="n", uri=model(tmp_path / "1", 1))

    response = api.send("DELETE", "/models/n", headers=TOKEN)

    assert response.status_code == 200
    assert api.predict({"model_name": "n", "features": [1, 2]}).status_code == 404
    assert api.send("GET", "/health/ready").status_code == 200


def test_what_does_not_load_leaves_all_as_it_was(tmp_path: Path, api: Api) -> None:
    bad = write_model(tmp_path / "bad", {"type": "linear", "weights": ["x"]})

    answers = [load(api, name=name, uri=uri) for name, uri in (("m", bad), ("new", bad), ("new", "file:///nothing"))]
    answers.append(load(api, name="m", uri=model(tmp_path / "good", 10), digest=f"sha256:{'0' * 64}"))

    assert [status for status, _ in answers] == [422] * 4
    assert answers[0][1]["error"].startswith("LoadFailed: weights of model.json")
    assert answers[2][1]["error"].startswith("ArtifactNotFound: ")
    assert answers[3][1]["error"].startswith("DigestMismatch: ")
    assert ask(api, "m") == (3.0, "1")
    assert api.send("GET", "/health").json() == {"status": "ready", "models": {"m": "ready"}}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not valid JSON"),
        (b"[]", 422, "the body"),
        (b'{"name": "n"}', 422, "uri: Field required"),
        (b'{"name": "a/b", "uri": "file:///x"}', 422, "name: "),
        (b'{"name": "n", "uri": "file:///x", "url": 1}', 422, "url: "),
        (b" " * 70_000, 413, "over 65536 bytes"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(body: bytes, status: int, message: str, api: Api) -> None:
    response = api.send("POST", "/models", content=body, headers=TOKEN)

    assert response.status_code == status
    assert message in response.json()["error"]


def test_an_unknown_version_is_a_404(api: Api) -> None:
    response = api.send("POST", "/models/m/versions/9/activate", headers=TOKEN)

    assert response.status_code == 404
    assert "no version '9' of the model 'm' is loaded; loaded are: 1" in json.dumps(response.json())


def test_a_token_file_that_is_empty_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    for name, advice in (("empty", "is empty"), ("missing", "can't be read")):
        with pytest.raises(SettingsError, match=advice):
            Api({}, admin_token_file=tmp_path / name)
