"""The cache in OIP v2 and V1: only when asked, never another answer than the model's, and counted truly."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from modelyard_runtime.errors import ModelFailed
from modelyard_runtime.formats import TensorSpec
from modelyard_runtime.observe.metrics import Metrics
from modelyard_runtime.observe.statistics import Look, Stages, Statistics
from modelyard_runtime.serving.answers import Answers
from modelyard_runtime.serving.cache import AnswerCache
from modelyard_runtime.serving.registry import Registry, ServedModel
from unit.runtime.support import SUM, Api, FakeModel, start_server, until

Serve = Callable[..., Api]
INFER = "/v2/models/m/infer"
PREDICT = "/v1/models/m:predict"
ASK = {"parameters": {"use_cache": True}}


def tensor(*rows: Sequence[Any], datatype: str = "FP64") -> dict[str, Any]:
    return {"name": "features", "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": list(rows)}


def infer(api: Api, *rows: Sequence[Any], **fields: Any) -> httpx.Response:
    return api.predict({"inputs": [tensor(*(rows or ([1, 2],)))], **ASK, **fields}, INFER)


def infer_raw(api: Api, *values: float) -> Any:
    described = {"name": "features", "shape": [1, 2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [described], **ASK}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return api.send("POST", INFER, content=head + np.array(values).tobytes(), headers=headers).json()


def predict(api: Api, *rows: Sequence[Any]) -> Any:
    return api.predict({"instances": list(rows), "use_cache": True}, PREDICT).json()


def outputs(body: Any) -> list[Any]:
    return [output["data"] for output in body["outputs"]]


def counts(api: Api) -> dict[str, int]:
    lines = (
        line.split() for line in api.send("GET", "/metrics").text.splitlines() if line.startswith("modelyard_cache")
    )
    return {name.removeprefix("modelyard_cache_"): int(float(value)) for name, value in lines if "_total" in name}


def statistics(api: Api) -> Any:
    return api.send("GET", "/v2/models/m/stats").json()["model_stats"][0]


@pytest.fixture
def api(serve: Serve) -> Api:
    return serve({"m": FakeModel()})


def test_oip_is_cached_only_when_asked(api: Api) -> None:
    answers = [
        infer(api, parameters=wish).json() for wish in ({}, ASK["parameters"], ASK["parameters"], {"use_cache": False})
    ]

    assert [answer.get("parameters") for answer in answers] == [None, {"cached": False}, {"cached": True}, None]
    assert [outputs(answer) for answer in answers] == [[[3.0]]] * 4


def test_v1_is_cached_only_when_asked(api: Api) -> None:
    bodies = [
        {"instances": [[1, 2]], **wish} for wish in ({}, {"use_cache": True}, {"use_cache": True}, {"use_cache": False})
    ]

    answers = [api.predict(body, PREDICT).json() for body in bodies]

    assert answers == [
        {"predictions": [3.0]},
        {"predictions": [3.0], "cached": False},
        {"predictions": [3.0], "cached": True},
        {"predictions": [3.0]},
    ]


def test_v1_and_the_batch_route_answer_one_another(api: Api) -> None:
    """Their predictions are the same bytes, within bodies of their own."""
    body = {"instances": [[1, 2], [3, 4]], "use_cache": True}

    answers = [api.predict(body, path).json() for path in ("/predict/batch", PREDICT, "/predict/batch")]

    assert [(answer["predictions"], answer["cached"]) for answer in answers] == [
        ([3.0, 7.0], False),
        ([3.0, 7.0], True),
        ([3.0, 7.0], True),
    ]


@pytest.mark.parametrize("wish", ["true", 1, [True], {}])
def test_a_wish_that_is_no_boolean_is_an_error(api: Api, wish: Any) -> None:
    answers = [
        infer(api, parameters={"use_cache": wish}),
        api.predict({"instances": [[1, 2]], "use_cache": wish}, PREDICT),
    ]

    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (400, {"error": "use_cache needs to be true or false"})
    ] * 2


def test_ids_and_forms_stay_with_their_own_request(api: Api) -> None:
    first = infer(api, id="a")
    raw = infer(api, id="b", parameters={"use_cache": True, "binary_data_output": True})
    last = infer(api)

    length = int(raw.headers["inference-header-content-length"])
    head = json.loads(raw.content[:length])
    assert (first.json()["id"], head["id"], "id" in last.json()) == ("a", "b", False)
    assert (head["parameters"], head["outputs"][0]["parameters"]) == ({"cached": True}, {"binary_data_size": 8})
    assert np.frombuffer(raw.content[length:]).tolist() == outputs(last.json())[0] == [3.0]
    assert last.json()["parameters"] == {"cached": True}


class TwoOutputs(FakeModel):
    def infer(self, tensors: Mapping[str, Any], wanted: Sequence[str] = ()) -> dict[str, Any]:
        rows = next(iter(tensors.values()))
        made = {"sum": rows.sum(axis=1), "product": rows.prod(axis=1)}
        return {name: made[name] for name in wanted or made}


def test_outputs_that_are_wanted_are_those_that_are_given(serve: Serve) -> None:
    api = serve({"m": TwoOutputs(outputs=[TensorSpec(name, "FP64", (-1,)) for name in ("sum", "product")])})
    wishes = [[], ["sum"], ["product"], ["product", "sum"], ["sum", "product"]] * 2

    answers = [infer(api, [3, 4], outputs=[{"name": name} for name in wish]).json() for wish in wishes]

    assert [outputs(answer) for answer in answers] == [
        [[7.0], [12.0]],
        [[7.0]],
        [[12.0]],
        [[12.0], [7.0]],
        [[7.0], [12.0]],
    ] * 2
    assert [answer["parameters"]["cached"] for answer in answers] == [False] * 5 + [True] * 5


def test_values_are_told_apart_by_their_bits(serve: Serve) -> None:
    api = serve({"m": FakeModel(answer=lambda rows: np.copysign(1, rows[:, 0]) + np.isnan(rows[:, 1]) * 10)})
    asked = [(0.0, 1.0), (-0.0, 1.0), (0.0, np.nan), (-0.0, np.nan)] * 2

    answers = [infer_raw(api, *values) for values in asked]

    assert [outputs(answer) for answer in answers] == [[[1.0]], [[-1.0]], [[11.0]], [[9.0]]] * 2
    assert [answer["parameters"]["cached"] for answer in answers] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("path", ["/predict/batch", PREDICT])
def test_objects_are_told_apart_by_type_and_value(serve: Serve, path: str) -> None:
    class Texts(FakeModel):
        text_features = frozenset({0})

    api = serve({"m": Texts(answer=lambda rows: np.array([repr(tuple(row)) for row in rows], dtype=object))})
    asked = [["a", 1], ["a", 1.0], ["a", True], ["a", 0.0], ["a", -0.0], ["a', 1", 1]] * 2

    answers = [api.predict({"instances": [row], "use_cache": True}, path).json() for row in asked]

    assert [answer["predictions"] for answer in answers] == [[repr(tuple(row))] for row in asked]
    assert [answer["cached"] for answer in answers] == [False] * 6 + [True] * 6


def test_text_tensors_are_told_apart(serve: Serve) -> None:
    class Words(FakeModel):
        text_features = frozenset({0, 1})

    api = serve(
        {
            "m": Words(
                answer=lambda rows: np.array(["|".join(row) for row in rows], dtype=object),
                inputs=[TensorSpec("features", "BYTES", (-1, 2))],
                outputs=[TensorSpec("prediction", "BYTES", (-1,))],
            )
        }
    )

    answers = [
        api.predict({"inputs": [tensor(row, datatype="BYTES")], **ASK}, INFER).json()
        for row in [["ab", "c"], ["a", "bc"]] * 2
    ]

    assert [outputs(answer) for answer in answers] == [[["ab|c"]], [["a|bc"]]] * 2
    assert [answer["parameters"]["cached"] for answer in answers] == [False, False, True, True]


def test_very_large_requests(serve: Serve) -> None:
    api = serve({"m": FakeModel()})
    rows = [[float(index), 0.5] for index in range(30_000)]
    other = [*rows[:-1], [29_999.0, 1.5]]
    expected, changed = [[row[0] + row[1] for row in table] for table in (rows, other)]

    over_v1 = [predict(api, *table) for table in (rows, other, rows)]
    over_oip = [infer(api, *table).json() for table in (rows, other, rows)]

    assert [answer["predictions"] for answer in over_v1] == [expected, changed, expected]
    assert [outputs(answer) for answer in over_oip] == [[expected], [changed], [expected]]
    assert [answer["cached"] for answer in over_v1] == [False, False, True]
    assert [answer["parameters"]["cached"] for answer in over_oip] == [False, False, True]


def test_an_answer_is_kept_apart_from_the_models_own_memory(serve: Serve) -> None:
    memory = np.zeros(1000)

    def answer(rows: Any) -> Any:
        memory[: len(rows)] = rows.sum(axis=1)
        return memory[: len(rows)]

    api = serve({"m": FakeModel(answer=answer)}, cache_max_bytes=4000)

    answers = [outputs(infer(api, row).json()) for row in ([1, 2], [3, 4], [1, 2])]

    assert answers == [[[3.0]], [[7.0]], [[3.0]]]
    assert infer(api, [3, 4]).json()["parameters"] == {"cached": True}


def test_long_texts_count_in_the_bytes(serve: Serve) -> None:
    class Text(FakeModel):
        text_features = frozenset({0})

    echo = Text(
        answer=lambda rows: rows[:, 0],
        features=1,
        inputs=[TensorSpec("features", "BYTES", (-1, 1))],
        outputs=[TensorSpec("prediction", "BYTES", (-1,))],
    )
    api = serve({"m": echo}, cache_max_bytes=20_000)

    def ask(text: str) -> tuple[bool, bool]:
        over_oip = api.predict({"inputs": [tensor([text], datatype="BYTES")], **ASK}, INFER).json()
        return over_oip["parameters"]["cached"], predict(api, [text])["cached"]

    assert [ask("a" * 30_000), ask("a" * 30_000)] == [(False, False)] * 2
    assert [ask("a" * 3_000), ask("a" * 3_000)] == [(False, False), (True, True)]
    for letter in "bcd":
        ask(letter * 3_000)
    assert ask("a" * 3_000) == (False, False)


def test_numbers_that_json_does_not_have_are_kept_for_who_can_read_them(serve: Serve) -> None:
    class Endless(FakeModel):
        def infer(self, tensors: Mapping[str, Any], wanted: Sequence[str] = ()) -> dict[str, Any]:
            return {"prediction": np.array([np.inf])}

    api = serve({"m": Endless()})

    statuses = [infer(api).status_code for _ in range(2)]
    raw = infer(api, parameters={"use_cache": True, "binary_data_output": True})

    assert statuses == [400, 400]
    assert np.frombuffer(raw.content[-8:])[0] == np.inf
    assert b'"cached":true' in raw.content


def test_the_counts_are_those_of_the_looks(serve: Serve) -> None:
    outcomes: list[Callable[[], Any]] = [lambda: 1 / 0]
    api = serve({"m": FakeModel(answer=lambda rows: outcomes.pop()() if outcomes else rows.sum(axis=1))})

    failed = infer(api, [1, 2], [3, 4])
    for _ in range(3):
        infer(api, [1, 2], [3, 4])
        predict(api, [1, 2])
    infer(api, parameters={})

    assert failed.status_code == 500
    assert counts(api) == {'hits_total{model="m"}': 4, 'misses_total{model="m"}': 3}
    found = statistics(api)
    assert (found["inference_count"], found["execution_count"]) == (4, 3)
    assert {key: value["count"] for key, value in found["inference_stats"].items()} == {
        "success": 7,
        "fail": 1,
        "queue": 7,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 4,
        "cache_miss": 2,
    }
    assert all(value["ns"] > 0 for key, value in found["inference_stats"].items() if key != "queue")


def test_the_times_of_a_request_add_up() -> None:
    times = iter([100, 110, 115, 120, 130, 230, 231, 234, 240, 300, 310, 311, 318, 330])

    def clock() -> int:
        return next(times)

    statistics = Statistics(lambda: 5.0)

    missed = Stages(clock)
    missed.on_parsed(2)
    missed.look = Look(clock)
    missed.look.on_look()
    missed.look.on_missed()
    missed.on_start(2, True)
    missed.on_computed()
    missed.look.on_keep()
    missed.look.on_kept()
    statistics.add("m", "1", missed, success=True)
    after_miss = {name: getattr(statistics.of("m", "1"), name).ns for name in ("cache_miss", "queue", "compute_output")}
    found = Stages(clock)
    found.on_parsed(2)
    found.look = Look(clock)
    found.look.on_look()
    found.look.on_found()
    statistics.add("m", "1", found, success=True)

    numbers = statistics.of("m", "1")
    assert after_miss == {"cache_miss": 5 + 3, "queue": 130 - 110 - 5, "compute_output": 240 - 230 - 3}
    assert (numbers.success.ns, numbers.success.count) == (140 + 30, 2)
    assert (numbers.cache_hit.ns, numbers.cache_hit.count, numbers.queue.count) == (7, 1, 2)
    stages = (numbers.compute_input, numbers.queue, numbers.compute_infer, numbers.compute_output, numbers.cache_miss)
    assert sum(stage.ns for stage in stages) == 140
    assert (numbers.inference_count, numbers.execution_count, numbers.last_inference) == (2, 1, 5000)


def test_equal_requests_in_flight_are_computed_once(serve: Serve) -> None:
    gate, calls = threading.Event(), []

    def answer(rows: Any) -> Any:
        calls.append(len(rows))
        assert gate.wait(30)
        return rows.sum(axis=1)

    api = serve({"m": FakeModel(answer=answer, inline=False)})

    async def scenario() -> list[httpx.Response]:
        bodies = [{"id": str(index), "inputs": [tensor([1, 2])], **ASK} for index in range(4)]
        tasks = [asyncio.create_task(api.request("POST", INFER, json=body)) for body in bodies]
        await until(lambda: bool(calls) and api.app.in_flight == 4)
        gate.set()
        return await asyncio.gather(*tasks)

    answers = [response.json() for response in asyncio.run(scenario())]

    assert calls == [1]
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3"]
    assert [answer["parameters"]["cached"] for answer in answers] == [False, True, True, True]
    assert [outputs(answer) for answer in answers] == [[[3.0]]] * 4


def test_a_swap_and_an_end_drop_what_is_cached(api: Api) -> None:
    infer(api)
    predict(api, [1, 2])

    api.activate("m", "2", FakeModel(answer=lambda rows: rows.sum(axis=1) * 10))

    assert (outputs(infer(api).json()), predict(api, [1, 2])) == ([[30.0]], {"predictions": [30.0], "cached": False})


class TestCancelled:
    """Requests whose clients go: gRPC cancels them."""

    def answers(self) -> tuple[Answers, ServedModel]:
        registry = Registry()
        served = ServedModel("m", "1", "linear", "sha256:00", "file:///m", FakeModel())
        registry.activate(served)
        return Answers(AnswerCache(ttl=9, max_bytes=9999, clock=lambda: 0), registry, Metrics()), served

    def ask(self, compute: Callable[[], Awaitable[bytes]]) -> Callable[[], asyncio.Task[bytes]]:
        answers, served = self.answers()

        def start() -> asyncio.Task[bytes]:
            deadline = asyncio.get_running_loop().time() + 30
            inputs = {"": np.zeros(1)}
            return asyncio.create_task(answers.get(served, "", inputs, compute, deadline=deadline, look=Look()))

        return start

    def test_another_computes_what_the_first_gave_up_on(self) -> None:
        calls = []

        async def compute() -> bytes:
            calls.append(1)
            await asyncio.sleep(60 if len(calls) == 1 else 0)
            return b"x"

        async def scenario() -> bytes:
            start = self.ask(compute)
            first, second = start(), start()
            await until(lambda: bool(calls))
            first.cancel()
            return await second

        assert asyncio.run(scenario()) == b"x"
        assert len(calls) == 2

    def test_all_may_be_cancelled_at_once(self) -> None:
        calls = []

        async def compute() -> bytes:
            calls.append(1)
            await asyncio.sleep(60)
            return b"x"

        async def scenario() -> list[bool]:
            start = self.ask(compute)
            tasks = [start() for _ in range(3)]
            await until(lambda: bool(calls))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return [task.cancelled() for task in tasks]

        assert asyncio.run(scenario()) == [True] * 3
        assert len(calls) == 1

    def test_an_error_reaches_all_that_wait(self) -> None:
        async def compute() -> bytes:
            await asyncio.sleep(0.01)
            raise ModelFailed("no")

        async def scenario() -> list[Any]:
            start = self.ask(compute)
            return await asyncio.gather(start(), start(), return_exceptions=True)

        assert [str(error) for error in asyncio.run(scenario())] == ["no", "no"]


def test_large_requests_are_cached_over_connections_as_well(tmp_path: Path) -> None:
    """There, the first step of a request is taken outside a task."""
    rows = [[float(index), 0.5] for index in range(30_000)]
    expected = [row[0] + row[1] for row in rows]
    with start_server(tmp_path, SUM) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        server.wait_for("/health/ready", 200)
        answers = [
            client.post("/v1/models/churn:predict", json={"instances": rows, "use_cache": True}).json()
            for _ in range(2)
        ]
        oip = [client.post("/v2/models/churn/infer", json={"inputs": [tensor(*rows)], **ASK}).json() for _ in range(2)]

    assert [(answer["predictions"], answer["cached"]) for answer in answers] == [(expected, False), (expected, True)]
    assert [(outputs(answer), answer["parameters"]["cached"]) for answer in oip] == [
        ([expected], False),
        ([expected], True),
    ]
