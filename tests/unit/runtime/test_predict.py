"""POST /predict and /predict/batch: answers, the cache, and an error that says what to do for every bad input."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from unit.runtime.support import NAMES, Api, FakeModel
from waiting import eventually_async

Serve = Callable[..., Api]


@pytest.fixture
def api(serve: Serve) -> Api:
    return serve({"m": FakeModel()}, max_body_bytes=2000)


def named() -> FakeModel:
    return FakeModel(features=4, feature_names=NAMES, answer=lambda rows: rows @ [1000.0, 100.0, 10.0, 1.0])


def test_one_row(api: Api) -> None:
    response = api.predict({"model_name": "m", "features": [1, 2.5]})

    body = response.json()
    assert response.status_code == 200
    assert body.pop("latency_ms") >= 0
    assert body == {"prediction": 3.5, "model_name": "m", "model_version": "1", "cached": False}
    assert response.headers["content-type"] == "application/json"


def test_many_rows(api: Api) -> None:
    body = api.predict({"instances": [[1, 2], [3, True]]}, "/predict/batch").json()

    assert body.pop("latency_ms") >= 0
    assert body == {"predictions": [3.0, 4.0], "model_name": "m", "model_version": "1", "cached": False}


def test_features_by_name_in_any_order(serve: Serve) -> None:
    api = serve({"m": named()})
    row = {"calls": 4, "tenure": 3, "income": 2, "age": 1}

    one = api.predict({"features": row}).json()
    many = api.predict({"instances": [row, [4, 3, 2, 1]]}, "/predict/batch").json()

    assert one["prediction"] == 1234.0
    assert many["predictions"] == [1234.0, 4321.0]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (np.array([1.5]), "1.5"),
        (np.array([7]), "7"),
        (np.array([True]), "true"),
        (np.array(["yes"]), '"yes"'),
        (np.array(["ja ✓"], dtype=object), '"ja ✓"'),
        (np.array([np.float32(0.5)], dtype=object), "0.5"),
        (np.array([[1.0, 2.0]]), "[1.0,2.0]"),
        (np.array([np.int64(3)], dtype=object), "3"),
    ],
)
def test_predictions_are_plain_json(answers: Any, expected: str, serve: Serve) -> None:
    api = serve({"m": FakeModel(answer=lambda _: answers)})

    text = api.predict({"features": [1, 2]}).text

    assert f'"prediction":{expected},' in text


def test_the_content_type_does_not_matter(api: Api) -> None:
    for content_type in ("application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"):
        response = api.send("POST", "/predict", content=b'{"features": [1, 2]}', headers={"content-type": content_type})

        assert response.status_code == 200


def test_with_several_models_the_name_is_needed(serve: Serve) -> None:
    api = serve({"a": FakeModel(), "b": FakeModel(answer=lambda rows: rows.sum(axis=1) * 10)})

    without = api.predict({"features": [1, 2]})
    with_name = api.predict({"features": [1, 2], "model_name": "b"})

    assert (without.status_code, without.json()) == (400, {"error": "give model_name: this server has a, b"})
    assert with_name.json()["prediction"] == 30.0


NO_JSON = "the body is not valid JSON"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is empty; send JSON"),
        (b"{", 400, NO_JSON),
        (b'{"features": [1, NaN]}', 400, "NaN and Infinity are not JSON"),
        (b'{"features": [1, Infinity]}', 400, "NaN and Infinity are not JSON"),
        (b'{"features": [1, 1e999]}', 400, "number is infinity"),
        (b'{"features": [1, ' + b"9" * 400 + b"]}", 400, "number is infinity"),
        (b'{"features": [1, "\xff"]}', 400, "UTF-8"),
        (b"[" * 1500, 400, NO_JSON),
        (b"\x80\x04K\x01.", 400, NO_JSON),
        (b"null", 422, "the body is null; send an object"),
        (b"[1, 2]", 422, "the body is a list; send an object"),
        (b"{}", 400, 'the body lacks features; it has nothing. Send {"features": [1.0, 2.0]}'),
        ({"feature": [1, 2]}, 400, "the body lacks features; it has feature"),
        ({"features": None}, 422, "features is null; send a list of numbers"),
        ({"features": 1}, 422, "features is a number; send a list"),
        ({"features": "1, 2"}, 422, "features is a string; send a list"),
        ({"features": []}, 422, "features has 0 numbers, expected 2: features needs shape [2]"),
        ({"features": [1]}, 422, "features has 1 numbers, expected 2: features needs shape [2]"),
        ({"features": [1, 2, 3]}, 422, "features has 3 numbers, expected 2: features needs shape [2]"),
        ({"features": [1, None]}, 422, "features[1] is null; send a number"),
        ({"features": ["1", 2]}, 422, "features[0] is a string; send a number"),
        ({"features": ["x" * 1000, 2]}, 422, "features[0] is a string; send a number"),
        ({"features": [[1, 2], [3, 4]]}, 422, "features[0] is a list; send a number"),
        ({"features": [1, {}]}, 422, "features[1] is an object; send a number"),
        ({"features": {"a": 1, "b": 2}}, 422, "does not know the names of its features; send a list"),
        ({"features": [1, 2], "model_name": "x"}, 404, "no model 'x' is served here; this server has m"),
        ({"features": [1, 2], "model_name": "x" * 900}, 404, "… is served here"),
        ({"features": [1, 2], "model_name": 7}, 422, "model_name needs to be a string"),
        ({"features": [1, 2], "use_cache": 1}, 422, "use_cache needs to be true or false"),
        ({"features": [1.7e308, 1.7e308]}, 422, "not a finite number"),
        ({"features": [0] * 3000}, 413, "larger than 2000 bytes"),
    ],
)
def test_a_bad_row_is_refused(body: Any, status: int, message: str, api: Api) -> None:
    with np.errstate(all="ignore"):
        response = api.predict(body)

    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert response.status_code == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": 1}, "instances is a number; send a list of rows"),
        ({"instances": {"a": 1}}, "instances is an object; send a list of rows"),
        ({"instances": []}, "instances is empty; send at least one row"),
        ({"instances": [1, 2]}, "instances[0] is a number; send a list of numbers"),
        ({"instances": [[1, 2], None]}, "instances[1] is null"),
        ({"instances": [[1, 2], [3]]}, "instances[1] has 1 numbers, expected 2: instances needs shape [2, 2]"),
        ({"instances": [[1, 2], [3, "4"]]}, "instances[1][1] is a string; send a number"),
        ({"instances": [[[1, 2]], [[3, 4]]]}, "instances[0] has 1 numbers, expected 2"),
        ({"instances": [[1, 2], {"a": 1}]}, "instances[1] is an object, and this model does not know"),
    ],
)
def test_bad_rows_are_refused(body: Any, message: str, api: Api) -> None:
    response = api.predict(body, "/predict/batch")

    assert message in response.json()["error"]
    assert response.status_code == 422


def test_a_batch_without_instances_is_refused(api: Api) -> None:
    response = api.predict({"features": [1, 2]}, "/predict/batch")

    error = 'the body lacks instances; it has features. Send {"instances": [[1.0, 2.0]]}'
    assert (response.status_code, response.json()) == (400, {"error": error})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": 1, "income": 2, "tenure": 3}, "features lacks calls; expected age, income, tenure, calls"),
        (dict.fromkeys([*NAMES, "x"], 1), "features has the unknown x; expected age, income, tenure, calls"),
        ({**dict.fromkeys(NAMES, 1), "age": "old"}, "features[0] is a string; send a number"),
        ([1], "features has 1 numbers, expected 4 (age, income, tenure, calls): features needs shape [4]"),
    ],
)
def test_bad_names_are_refused(row: Any, message: str, serve: Serve) -> None:
    api = serve({"m": named()})

    response = api.predict({"features": row})

    assert (response.status_code, response.json()) == (422, {"error": message})


def test_rows_of_a_model_that_does_not_know_its_width_need_to_agree(serve: Serve) -> None:
    api = serve({"m": FakeModel(features=None)})

    good = api.predict({"instances": [[1, 2, 3]]}, "/predict/batch")
    bad = api.predict({"instances": [[1, 2], [1]]}, "/predict/batch")
    empty = api.predict({"features": []})

    assert good.json()["predictions"] == [6.0]
    assert (bad.status_code, empty.status_code) == (422, 422)


def test_another_method_is_refused(api: Api) -> None:
    response = api.send("GET", "/predict")

    assert (response.status_code, response.json()) == (405, {"error": "GET /predict is not allowed; use POST"})
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_taken(encoding: str, api: Api) -> None:
    body = json.dumps({"features": [1, 2]}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)

    response = api.send("POST", "/predict", content=packed, headers={"content-encoding": encoding})

    assert response.status_code == 200, response.text


def test_a_body_that_is_compressed_otherwise_is_refused(api: Api) -> None:
    response = api.send("POST", "/predict", content=b"\x1f\x8b", headers={"content-encoding": "br"})

    assert response.status_code == 415
    assert response.json() == {"error": "the body is encoded as 'br'; send it as it is, or as gzip or deflate"}


def test_a_body_over_the_limit_is_refused_before_it_is_read(api: Api) -> None:
    response = api.send("POST", "/predict", content=b"{}", headers={"content-length": "100000000"})

    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def test_a_request_before_the_model_is_ready_is_told_to_come_back(serve: Serve) -> None:
    api = serve({})
    api.app.registry.expect("m")

    response = api.predict({"features": [1, 2]})

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "is loading; try again" in response.json()["error"]


def test_a_model_that_raises_is_a_500_that_shows_nothing(serve: Serve) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("secret")

    api = serve({"m": FakeModel(answer=fail)})

    response = api.predict({"features": [1, 2]})

    assert (response.status_code, response.json()) == (500, {"error": "the model failed; its log says why"})
    assert 'modelyard_requests_total{code="500",model="m"' in api.send("GET", "/metrics").text


def test_a_model_that_answers_too_few_rows_is_a_500(serve: Serve) -> None:
    api = serve({"m": FakeModel(answer=lambda rows: rows.sum(axis=1)[1:])})

    response = api.predict({"instances": [[1, 2], [3, 4]]}, "/predict/batch")

    assert response.status_code == 500


def test_while_draining_every_answer_closes_its_connection(api: Api) -> None:
    before = api.predict({"features": [1, 2]})
    api.drain.on_terminate()

    after = [api.predict({"features": [1, 2]}), api.predict(b""), api.send("GET", "/models"), api.send("GET", "/x")]

    assert "connection" not in before.headers
    assert [response.headers["connection"] for response in after] == ["close"] * 4


class TestCache:
    def test_is_used_only_when_asked(self, api: Api) -> None:
        answers = [api.predict({"features": [1, 2], "use_cache": use}).json() for use in (False, True, True, False)]

        assert [answer["cached"] for answer in answers] == [False, False, True, False]
        assert {answer["prediction"] for answer in answers} == {3.0}

    def test_forgets_after_its_time(self, serve: Serve) -> None:
        api = serve({"m": FakeModel()}, cache_ttl=10.0)
        api.predict({"features": [1, 2], "use_cache": True})

        api.now = 10.0

        assert api.predict({"features": [1, 2], "use_cache": True}).json()["cached"] is False

    def test_never_gives_one_models_answer_for_another(self, serve: Serve) -> None:
        api = serve({"a": FakeModel(), "b": FakeModel(answer=lambda rows: rows.sum(axis=1) * 10)})

        answers = [
            api.predict({"model_name": name, "features": [1, 2], "use_cache": True}).json()["prediction"]
            for name in ("a", "b", "a", "b")
        ]

        assert answers == [3.0, 30.0, 3.0, 30.0]

    def test_never_gives_one_versions_answer_for_another(self, serve: Serve) -> None:
        api = serve({"m": FakeModel()})
        api.predict({"features": [1, 2], "use_cache": True})

        api.activate("m", "2", FakeModel(answer=lambda rows: rows.sum(axis=1) * 10))
        answer = api.predict({"features": [1, 2], "use_cache": True}).json()

        assert (answer["prediction"], answer["model_version"], answer["cached"]) == (30.0, "2", False)

    def test_tells_a_batch_of_one_from_a_row(self, api: Api) -> None:
        row = api.predict({"features": [1, 2], "use_cache": True}).json()
        batch = api.predict({"instances": [[1, 2]], "use_cache": True}, "/predict/batch").json()

        assert (row["prediction"], batch["predictions"], batch["cached"]) == (3.0, [3.0], False)

    def test_does_not_keep_failures(self, serve: Serve) -> None:
        outcomes = iter([np.array([np.nan]), np.array([5.0])])
        api = serve({"m": FakeModel(answer=lambda _: next(outcomes))})

        statuses = [api.predict({"features": [1, 2], "use_cache": True}).status_code for _ in range(3)]

        assert statuses == [422, 200, 200]


class TestSlowModels:
    """A model that computes in a thread, and waits there until the test lets it go on."""

    def test_health_and_metrics_answer_meanwhile(self, serve: Serve) -> None:
        gate, started = threading.Event(), threading.Event()

        def wait(rows: Any) -> Any:
            started.set()
            assert gate.wait(30)
            return rows.sum(axis=1)

        api = serve({"m": FakeModel(answer=wait, inline=False)})

        async def scenario() -> tuple[list[int], str, int]:
            running = asyncio.create_task(api.request("POST", "/predict", json={"features": [1, 2]}))
            await asyncio.to_thread(started.wait, 30)
            paths = ("/health/live", "/health/ready", "/models")
            statuses = [(await api.request("GET", path)).status_code for path in paths]
            metrics = (await api.request("GET", "/metrics")).text
            gate.set()
            return statuses, metrics, (await running).status_code

        statuses, metrics, status = asyncio.run(scenario())

        assert (statuses, status) == ([200, 200, 200], 200)
        assert "modelyard_in_flight_requests 1.0" in metrics
        assert "modelyard_queue_rows 1.0" in metrics

    def test_an_answer_after_the_deadline_is_a_504(self, serve: Serve) -> None:
        gate = threading.Event()
        api = serve({"m": FakeModel(answer=lambda _: gate.wait(30), inline=False)}, timeout=0.05)

        response = api.predict({"features": [1, 2]})
        gate.set()

        assert response.status_code == 504
        assert "did not answer in time" in response.json()["error"]

    def test_a_full_queue_is_a_429(self, serve: Serve) -> None:
        gate, started = threading.Event(), threading.Event()

        def wait(rows: Any) -> Any:
            started.set()
            assert gate.wait(30)
            return rows.sum(axis=1)

        api = serve({"m": FakeModel(answer=wait, inline=False)}, max_queue=1)

        async def scenario() -> list[int]:
            body = {"features": [1, 2]}
            waiting = [asyncio.create_task(api.request("POST", "/predict", json=body)) for _ in range(2)]
            await asyncio.to_thread(started.wait, 30)
            await eventually_async(lambda: api.app.executor.queue_rows == 2)
            refused = await api.request("POST", "/predict", json=body)
            gate.set()
            assert refused.headers["retry-after"] == "1"
            return [refused.status_code, *[(await task).status_code for task in waiting]]

        assert asyncio.run(scenario()) == [429, 200, 200]
