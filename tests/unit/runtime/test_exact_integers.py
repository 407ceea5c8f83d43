"""Whole numbers arrive as they were sent, or are refused: none is rounded or wrapped around in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from modelyard_runtime.formats import detect, load_model
from modelyard_runtime.formats.base import output_spec
from onnx import TensorProto, helper
from unit.runtime.support import Api

EXACT = 2**53 + 1


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    models = {}
    for name in ("INT64", "UINT64", "INT32"):
        kind = getattr(TensorProto, name)
        given, made = (helper.make_tensor_value_info(tensor, kind, ["n", 1]) for tensor in ("x", "y"))
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [made])
        folder = tmp_path_factory.mktemp(name)
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
        models[name] = load_model(detect(folder))
    api = Api(models)
    yield api
    api.app.close()


def infer(api: Api, model: str, datatype: str, value: int) -> httpx.Response:
    tensor = {"name": "x", "shape": [1, 1], "datatype": datatype, "data": [value]}
    return api.send("POST", f"/v2/models/{model}/infer", content=json.dumps({"inputs": [tensor]}))


@pytest.mark.parametrize("model", ["INT64", "UINT64"])
@pytest.mark.parametrize(("path", "field"), [("/v1/models/{}:predict", "instances"), ("/predict/batch", "instances")])
def test_rows_of_numbers_hold_whole_numbers_below_2_to_the_53(api: Api, model: str, path: str, field: str) -> None:
    def predict(value: int) -> Any:
        body = {"model_name": model, field: [[value]]}
        return api.send("POST", path.format(model), content=json.dumps(body))

    assert predict(2**53 - 1).json()["predictions"] == [2**53 - 1]
    refused = predict(EXACT)
    assert refused.status_code == (422 if path.startswith("/predict") else 400)
    assert f"send them as {model}, with /v2/models/NAME/infer" in refused.json()["error"]


@pytest.mark.parametrize(("model", "value"), [("INT64", EXACT), ("INT64", -(2**63)), ("UINT64", 2**64 - 1)])
def test_tensors_hold_them_all(api: Api, model: str, value: int) -> None:
    response = infer(api, model, model, value)

    assert response.json()["outputs"][0] == {"name": "y", "shape": [1, 1], "datatype": model, "data": [value]}


@pytest.mark.parametrize(
    ("model", "datatype", "value"),
    [("INT32", "INT64", 2**32 + 1), ("INT64", "UINT64", 2**63), ("UINT64", "INT64", -1), ("INT32", "UINT32", 2**31)],
)
def test_what_the_models_type_can_not_hold_is_refused(api: Api, model: str, datatype: str, value: int) -> None:
    response = infer(api, model, datatype, value)

    assert response.status_code == 400
    assert (model in response.json()["error"], "x" in response.json()["error"]) == (True, True)


def test_outputs_of_64_bits_without_a_sign_say_so() -> None:
    assert output_spec(np.array([2**64 - 1], dtype=np.uint64)).datatype == "UINT64"
    assert output_spec(np.array([255], dtype=np.uint8)).datatype == "INT64"
