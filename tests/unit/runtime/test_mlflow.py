"""MLflow's folders: the flavours that have a format here, with the signature's names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import lightgbm
import pytest
import skops.io
import xgboost
import yaml
from modelyard_runtime.errors import LoadFailed, StartupFailure, UnknownFormat, UnsafeArtifact
from modelyard_runtime.formats import detect, load_model
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from unit.runtime.test_compiling import NUMPY, agrees, data

NAMES = ["a", "b", "c", "d", "e", "f"]
SIGNATURE = {"inputs": json.dumps([{"type": "double", "name": name, "required": True} for name in NAMES])}


def write(folder: Path, flavors: Any, signature: Any = SIGNATURE) -> Path:
    described = {"flavors": flavors, "mlflow_version": "3.1.0", "run_id": "r1", "signature": signature}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "requirements.txt").write_text("scikit-learn\n")
    return folder


def sklearn_flavor(name: str) -> Any:
    return {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {"pickled_model": name}}


@pytest.mark.parametrize("name", ["model.pkl", "model.skops"])
def test_sklearn(name: str, tmp_path: Path) -> None:
    rows, target = data()
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target)
    if name == "model.pkl":
        (tmp_path / name).write_bytes(pickle.dumps(fitted))
    else:
        skops.io.dump(fitted, tmp_path / name)
    write(tmp_path, sklearn_flavor(name))

    found = detect(tmp_path, allow_pickle=name == "model.pkl")
    model = load_model(found)

    assert (found.format, model.compiled, model.feature_names) == ("mlflow", NUMPY, tuple(NAMES))
    assert (model.metadata["run_id"], model.metadata["signature"]["inputs"][0]["name"]) == ("r1", "a")
    agrees(model, fitted, rows)


def test_a_pickle_in_it_is_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(1))

    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        load_model(detect(write(tmp_path, sklearn_flavor("model.pkl"))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("flavor", ["xgboost", "lightgbm", "onnx"])
def test_other_flavors(flavor: str, tmp_path: Path) -> None:
    rows, target = data()
    if flavor == "xgboost":
        fitted: Any = xgboost.XGBClassifier(n_estimators=3).fit(rows, target)
        fitted.save_model(tmp_path / "model.ubj")
        fields = {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier", "model_format": "ubj"}
    elif flavor == "lightgbm":
        fitted = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, target).booster_
        fitted.save_model(tmp_path / "model.lgb")
        fields = {"data": "model.lgb", "model_class": "lightgbm.basic.Booster"}
    else:
        rows = rows.astype("float32")
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target)
        (tmp_path / "model.onnx").write_bytes(to_onnx(fitted, rows[:1]).SerializeToString())
        fields = {"data": "model.onnx"}

    model = load_model(detect(write(tmp_path, {flavor: fields})))

    assert model.predict(rows).tolist() == fitted.predict(rows).tolist()
    assert model.feature_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("described", "error", "advice"),
    [
        ("a: [", LoadFailed, "not valid YAML"),
        ("- 1", LoadFailed, "has no flavors"),
        ("flavors: {keras: {data: x}, python_function: {}}", UnknownFormat, "flavors keras, python_function"),
        ("flavors: {onnx: {}}", LoadFailed, "does not say which file"),
        ("flavors: {onnx: {data: ../../etc/passwd}}", LoadFailed, "outside of the artifact"),
        ("flavors: {onnx: {data: gone.onnx}}", LoadFailed, "fetch the whole folder"),
        ("!!python/object/apply:os.system [true]", LoadFailed, "not valid YAML"),
    ],
)
def test_what_can_not_be_served_is_refused(
    described: str, error: type[StartupFailure], advice: str, tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_text(described)
    (tmp_path / "conda.yaml").write_text("")

    with pytest.raises(error, match=advice):
        load_model(detect(tmp_path))


@pytest.mark.parametrize(
    ("inputs", "advice"), [("[", "are not JSON"), ('[{"name": "a"}]', "1 columns and the model 6")]
)
def test_a_signature_that_does_not_fit_is_refused(inputs: str, advice: str, tmp_path: Path) -> None:
    rows, target = data()
    skops.io.dump(LogisticRegression(max_iter=3000).fit(rows, target), tmp_path / "model.skops")

    with pytest.raises(LoadFailed, match=advice):
        load_model(detect(write(tmp_path, sklearn_flavor("model.skops"), {"inputs": inputs})))
