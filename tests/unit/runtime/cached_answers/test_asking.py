"""The cache answers only those who ask, each in the form of its own request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from modelyard_runtime.formats import TensorSpec
from unit.runtime.cached_answers.support import ASK, PREDICT, Serve, infer, outputs
from unit.runtime.support import Api, FakeModel


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
