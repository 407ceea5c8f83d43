"""What may run code of its own is loaded only where that is allowed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.dataplane.loading import load_served, warm_up
from modelyard_runtime.errors import LoadFailed, UnsafeArtifact, WarmupFailed
from modelyard_runtime.formats import Compiled, InputRefused, Model, TensorSpec, detect, load_model
from modelyard_runtime.formats import python as python_format
from modelyard_runtime.formats import sklearn as sklearn_format
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from unit.runtime.test_compiling import NUMPY, agrees, data

CODE = """
import numpy as np

class Model:
    feature_names = ["a", "b"]

    def load(self, folder):
        self.weights = np.array([float(part) for part in (folder / "weights.txt").read_text().split()])

    def predict(self, rows):
        if rows.min() < 0:
            raise ValueError("only positive numbers")
        return rows @ self.weights
"""


def load(folder: Path, wanted: str = "") -> Model:
    model = load_model(detect(folder, wanted, allow_pickle=True))
    warm_up(model)
    return model


def fitted_pipeline() -> tuple[Any, Any]:
    rows, target = data()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target), rows


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pickle"])
@pytest.mark.parametrize("wanted", ["", "sklearn"])
def test_a_pickle_is_compiled_as_any_other(name: str, wanted: str, tmp_path: Path) -> None:
    fitted, rows = fitted_pipeline()
    if name.endswith("joblib"):
        joblib.dump(fitted, tmp_path / name, compress=3)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(fitted))

    model = load(tmp_path, wanted)

    assert model.compiled == NUMPY
    agrees(model, fitted, rows)


def test_a_pickle_of_another_library(tmp_path: Path) -> None:
    rows, target = data()
    fitted = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, np.array(["a", "b", "c"])[target])
    joblib.dump(fitted, tmp_path / "model.joblib")

    model = load(tmp_path)

    assert model.compiled == Compiled("original", "LGBMClassifier is not scikit-learn's own")
    assert model.predict(rows).tolist() == np.asarray(fitted.predict(rows)).tolist()


@pytest.mark.parametrize("wanted", ["", "sklearn"])
def test_a_pickle_is_refused_unless_allowed(wanted: str, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(1))

    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        detect(tmp_path, wanted)
    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        sklearn_format.load(tmp_path / "model.pkl")


class Strange:
    """A class that is gone when its pickle is loaded."""


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"\x80\x04nothing", "pickle it again"),
        (pickle.dumps({"a": 1}), "holds a dict, which has no predict"),
        (b"\x80\x04\x8c\x0agone_thing\x94\x8c\x01X\x94\x93.", "needs the module gone_thing"),
        (b"cbuiltins\nexit\n(tR.", "pickle it again"),
    ],
)
def test_a_pickle_that_can_not_be_used_is_refused(content: bytes, advice: str, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(content)

    with pytest.raises(LoadFailed, match=advice):
        load(tmp_path)


def python_model(folder: Path, code: str = CODE) -> Model:
    (folder / "model.py").write_text(code)
    (folder / "weights.txt").write_text("1 2")
    return load(folder)


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    model = python_model(tmp_path)

    assert model.predict(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [5.0, 11.0]
    assert (model.features, model.feature_names) == (2, ("a", "b"))
    assert model.outputs == (TensorSpec("prediction", "FP64", (-1,)),)
    with pytest.raises(InputRefused, match="only positive numbers"):
        model.predict(np.array([[-1.0, 2.0]]))
    with pytest.raises(InputRefused, match="no probabilities"):
        model.predict_proba(np.ones((1, 2)))


def test_load_may_return_the_model(tmp_path: Path) -> None:
    code = """
class Model:
    features = 1
    @classmethod
    def load(cls, folder):
        return cls()
    def predict(self, rows):
        return ["yes"] * len(rows)
    def predict_proba(self, rows):
        return [[0.1, 0.9]] * len(rows)
"""
    model = python_model(tmp_path, code)

    assert model.predict(np.ones((2, 1))).tolist() == ["yes", "yes"]
    assert model.predict_proba(np.ones((1, 1))).tolist() == [[0.1, 0.9]]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("", "has no class Model"),
        ("Model = 1", "has no class Model"),
        ("class Model: pass", "has no predict"),
        ("x = (", "failed on line 1"),
        ("\nraise RuntimeError('boom')", "failed on line 2 .RuntimeError: boom"),
        ("import gone_thing", "No module named 'gone_thing'"),
        ("class Model:\n  def load(self, folder):\n    open(folder / 'none')", "failed on line 3"),
        ("raise SystemExit(3)", "SystemExit"),
        ("class Model:\n  features = 'many'\n  def predict(self, rows): return rows", "features"),
    ],
)
def test_code_that_fails_says_where(code: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=advice):
        python_model(tmp_path, code)


def test_code_that_fails_at_its_first_row(tmp_path: Path) -> None:
    with pytest.raises(WarmupFailed, match="ZeroDivisionError"):
        python_model(tmp_path, "class Model:\n  features = 1\n  def predict(self, rows): return 1 / 0")


def test_code_is_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise RuntimeError")

    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        detect(tmp_path)
    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        python_format.load(tmp_path / "model.py")


def test_from_the_uri_to_the_model(tmp_path: Path) -> None:
    fitted, rows = fitted_pipeline()
    (tmp_path / "source").mkdir()
    joblib.dump(fitted, tmp_path / "source" / "model.joblib")

    with pytest.raises(UnsafeArtifact):
        fetch((tmp_path / "source").as_uri(), tmp_path / "volume")
    fetch((tmp_path / "source").as_uri(), tmp_path / "volume", allow_pickle=True)
    with pytest.raises(UnsafeArtifact):
        load_served(tmp_path / "volume", name="m")
    served, _ = load_served(tmp_path / "volume", name="m", allow_pickle=True)

    assert served.format == "sklearn"
    agrees(served.model, fitted, rows)
