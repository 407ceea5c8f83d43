"""The cache gives never another answer than the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from modelyard_runtime.formats import TensorSpec
from unit.runtime.cached_answers.support import ASK, INFER, PREDICT, Serve, infer, outputs, predict, tensor
from unit.runtime.support import SUM, Api, FakeModel, start_server


def infer_raw(api: Api, *values: float) -> Any:
    described = {"name": "features", "shape": [1, 2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [described], **ASK}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return api.send("POST", INFER, content=head + np.array(values).tobytes(), headers=headers).json()


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


def test_a_swap_and_an_end_drop_what_is_cached(api: Api) -> None:
    infer(api)
    predict(api, [1, 2])

    api.activate("m", "2", FakeModel(answer=lambda rows: rows.sum(axis=1) * 10))

    assert (outputs(infer(api).json()), predict(api, [1, 2])) == ([[30.0]], {"predictions": [30.0], "cached": False})
