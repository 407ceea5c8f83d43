"""ONNX graphs: as ONNX Runtime and the scikit-learn models they were made from answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats import InputRefused, Model, TensorSpec, detect, load_model
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from unit.runtime.support import Api
from unit.runtime.test_compiling import data, frame

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def load(folder: Path, proto: Any) -> Model:
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    model = load_model(detect(folder))
    warm_up(model)
    return model


def graph(nodes: Any, inputs: Any, outputs: Any) -> Any:
    made = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(name: str, kind: int = TensorProto.FLOAT, shape: Any = ("n", 2)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("labels", [["a", "b", "c"], [10, 20, 30]])
def test_a_classifier(labels: list[Any], zipmap: bool, tmp_path: Path) -> None:
    rows, target = data()
    rows = rows.astype(np.float32)
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, np.array(labels)[target])
    proto = to_onnx(fitted, rows[:1], options={"zipmap": zipmap})

    model = load(tmp_path, proto)

    assert (model.features, model.inputs[0]) == (6, TensorSpec("X", "FP32", (-1, 6)))
    assert model.predict(rows.astype(np.float64)).tolist() == fitted.predict(rows).tolist()
    np.testing.assert_allclose(model.predict_proba(rows), fitted.predict_proba(rows), atol=1e-5)
    everything = model.infer({"X": rows})
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    assert list(everything) == [spec.name for spec in model.outputs] == [value.name for value in session.get_outputs()]


def test_a_regressor_gives_one_number_a_row(tmp_path: Path) -> None:
    rows, _ = data()
    fitted = LinearRegression().fit(rows, rows.sum(axis=1))

    model = load(tmp_path, to_onnx(fitted, rows[:1].astype(np.float32)))

    np.testing.assert_allclose(model.predict(rows), fitted.predict(rows), rtol=1e-4)
    with pytest.raises(InputRefused, match="no probabilities"):
        model.predict_proba(rows)


def test_inputs_that_are_columns_take_rows_by_name(tmp_path: Path) -> None:
    table, target = frame()
    encoder = ColumnTransformer([("plan", OneHotEncoder(), ["plan"])], remainder=StandardScaler())
    fitted = make_pipeline(encoder, LogisticRegression()).fit(table, target)
    kinds = [(name, (StringTensorType if name == "plan" else FloatTensorType)([None, 1])) for name in table.columns]

    model = load(tmp_path, to_onnx(fitted, initial_types=kinds))

    assert list(model.feature_names or ()) == list(table.columns)
    assert model.text_features == {1}
    assert model.predict(table.to_numpy(dtype=object)).tolist() == fitted.predict(table).tolist()


def test_several_tensors_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    model = load(tmp_path, graph(nodes, [tensor("a"), tensor("b")], [tensor("sum"), tensor("difference")]))

    results = model.infer({"a": np.array([[3.0, 4.0]]), "b": np.array([[1, 2]])})

    assert {name: value.tolist() for name, value in results.items()} == {"sum": [[4, 6]], "difference": [[2, 2]]}
    assert list(model.infer({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, ("difference",))) == ["difference"]
    assert model.features is None
    with pytest.raises(InputRefused, match="several inputs"):
        model.predict(np.ones((1, 2)))


def test_what_the_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model = load(tmp_path, graph([node], [tensor("x", TensorProto.INT64)], [tensor("y", TensorProto.INT64)]))

    assert model.predict(np.array([[1.0, 2.0]])).tolist() == [[1, 2]]
    for rows, reason in (([[0.5, 1]], "whole numbers"), ([[1e30, 1]], "whole numbers"), ([[1, 2, 3]], "invalid dim")):
        with pytest.raises(InputRefused, match=f"(?i){reason}"):
            model.predict(np.array(rows, dtype=float))
    with pytest.raises(InputRefused, match="made of numbers"):
        model.infer({"x": np.array([["a", "b"]], dtype=object)})
    with pytest.raises(InputRefused):
        model.infer({"z": np.ones((1, 2))})


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x08\x08\x12"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(LoadFailed, match="export it again"):
        load_model(detect(tmp_path))


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 1), [2.0, 3.0])
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [tensor("x")], [tensor("y", shape=("n", 1))], [weight]
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)

    model = load_model(detect(tmp_path))

    assert model.predict(np.array([[1.0, 1.0]])).tolist() == [5.0]


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"")

    with pytest.raises(LoadFailed, match=r"pip install 'modelyard\[onnx\]'"):
        load_model(detect(tmp_path))


@pytest.mark.parametrize("name", ["probabilities", "output_probability"])
def test_probabilities_are_described_once_and_keep_their_datatype(name: str, tmp_path: Path) -> None:
    rows, target = data()
    fitted = LogisticRegression().fit(rows, target)
    exported = to_onnx(fitted, rows[:1].astype(np.float32), options={"zipmap": False})
    for value in (*exported.graph.output, *exported.graph.node):
        if isinstance(value, onnx.NodeProto):
            value.output[:] = [name if output == "probabilities" else output for output in value.output]
        elif value.name == "probabilities":
            value.name = name
    api = Api({"m": load(tmp_path, exported)})
    tensor = {"name": "X", "shape": [2, rows.shape[1]], "datatype": "FP32", "data": rows[:2].ravel().tolist()}

    described = {output["name"]: output["datatype"] for output in api.send("GET", "/v2/models/m").json()["outputs"]}
    answers = {
        wanted: api.predict({"inputs": [tensor], "outputs": [{"name": wanted}]}, "/v2/models/m/infer").json()["outputs"]
        for wanted in described
    }

    assert sorted(described) == sorted({"label", name, "probabilities"})
    assert described["probabilities"] == described[name] == "FP32"
    assert {wanted: output["datatype"] for wanted, (output,) in answers.items()} == described
    np.testing.assert_allclose(
        np.reshape(answers["probabilities"][0]["data"], (2, -1)), fitted.predict_proba(rows[:2]), rtol=1e-4
    )
    api.app.close()


def served(model: Model, shape: list[int]) -> Any:
    api = Api({"m": model})
    data = np.ones(shape).ravel().tolist()
    tensors = [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]
    response = api.predict({"inputs": tensors}, "/v2/models/m/infer")
    api.app.close()
    return response.json()["outputs"]


def test_an_output_without_a_row_a_row_is_served_as_a_tensor(tmp_path: Path) -> None:
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    model = load(tmp_path, graph([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [tensor("x")], [made]))

    warm_up(model)

    assert served(model, [3, 2]) == [{"name": "y", "shape": [], "datatype": "FP32", "data": [6.0]}]
    with pytest.raises(InputRefused, match=r"its output y has not one row a row; send tensors, with /v2/models"):
        model.predict(np.ones((1, 2)))


def test_an_input_without_a_shape_takes_any(tmp_path: Path) -> None:
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    model = load(tmp_path, graph([helper.make_node("Add", ["x", "x"], ["y"])], [given], [made]))

    for shape in ([1, 2], [3], [2, 1, 2]):
        (output,) = served(model, shape)
        assert (output["shape"], set(output["data"])) == (shape, {2.0})


def test_an_output_that_is_a_sequence_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    nodes = [helper.make_node("SplitToSequence", ["x"], ["parts"]), helper.make_node("Identity", ["x"], ["y"])]

    model = load(tmp_path, graph(nodes, [tensor("x")], [parts, tensor("y")]))

    assert [spec.name for spec in model.outputs] == ["y"]
    assert "parts is a seq(tensor(float)), which no protocol can carry" in caplog.text
    assert served(model, [1, 2])[0]["data"] == [1.0, 1.0]
