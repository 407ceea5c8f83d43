"""CatBoost's models answer as its own classes do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd
import pytest
from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats import InputRefused, Model, detect, load_model

SETTINGS = {"iterations": 8, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(120, 3))


def load(folder: Path, fitted: Any, name: str = "model.cbm") -> Model:
    fitted.save_model(folder / name, format="cbm")
    return load_model(detect(folder))


@pytest.mark.parametrize(
    ("target", "datatype"),
    [
        (np.where(ROWS[:, 0] > 0, "yes", "no"), "BYTES"),
        (np.digitize(ROWS[:, 0], [-1, 1]), "INT64"),
        (np.array(["a", "b", "c"])[np.digitize(ROWS[:, 0], [-1, 1])], "BYTES"),
        (ROWS[:, 0] > 0, "BOOL"),
    ],
)
def test_a_classifier(target: Any, datatype: str, tmp_path: Path) -> None:
    fitted = catboost.CatBoostClassifier(**SETTINGS).fit(ROWS, target)

    model = load(tmp_path, fitted)

    labels = model.predict(ROWS)
    assert labels.tolist() == fitted.predict(ROWS).ravel().tolist()
    assert (model.outputs[0].datatype, model.outputs[0].shape) == (datatype, (-1,))
    assert np.allclose(model.predict_proba(ROWS), fitted.predict_proba(ROWS), rtol=1e-12)
    assert model.probabilities is not None
    assert model.probabilities.shape == (-1, len(fitted.classes_))
    assert (model.features, model.feature_names) == (3, None)


def test_a_classifier_of_several_labels_a_row(tmp_path: Path) -> None:
    fitted = catboost.CatBoostClassifier(loss_function="MultiLogloss", **SETTINGS).fit(ROWS, (ROWS > 0).astype(int))

    model = load(tmp_path, fitted)

    assert model.predict(ROWS).tolist() == fitted.predict(ROWS).tolist()
    assert model.outputs[0].shape == (-1, 3)


@pytest.mark.parametrize("loss", ["RMSE", "Poisson", "Quantile:alpha=0.9", "RMSEWithUncertainty"])
def test_a_regressor_predicts_as_its_loss_needs(loss: str, tmp_path: Path) -> None:
    fitted = catboost.CatBoostRegressor(loss_function=loss, **SETTINGS).fit(ROWS, np.abs(ROWS[:, 0]))

    model = load(tmp_path, fitted)

    assert np.allclose(model.predict(ROWS), fitted.predict(ROWS), rtol=1e-12)
    assert model.probabilities is None
    with pytest.raises(InputRefused, match="no probabilities"):
        model.predict_proba(ROWS)


def test_a_ranker_gives_scores(tmp_path: Path) -> None:
    fitted = catboost.CatBoostRanker(**SETTINGS).fit(ROWS, ROWS[:, 0] > 0, group_id=np.arange(120) // 10)

    model = load(tmp_path, fitted)

    assert np.allclose(model.predict(ROWS), fitted.predict(ROWS), rtol=1e-12)


def test_categories_are_text_and_numbers_may_be_missing(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": ROWS[:, 0], "plan": RANDOM.choice(["a", "b"], 120)})
    fitted = catboost.CatBoostClassifier(cat_features=["plan"], **SETTINGS).fit(table, ROWS[:, 0] > 0)

    model = load(tmp_path, fitted)

    asked = np.array([[0.5, "a"], [-0.5, "never seen"], [np.nan, "b"]], dtype=object)
    assert model.predict(asked).tolist() == fitted.predict(asked).tolist()
    assert list(model.feature_names or ()) == ["age", "plan"]
    assert model.text_features == {1}
    assert model.inputs[0].datatype == "BYTES"
    with pytest.raises(InputRefused, match="Cannot convert"):
        model.predict(np.array([["much", "a"]], dtype=object))


def test_it_is_found_by_its_content_too(tmp_path: Path) -> None:
    fitted = catboost.CatBoostRegressor(**SETTINGS).fit(ROWS, ROWS[:, 0])
    fitted.save_model(tmp_path / "churn.bin")

    assert detect(tmp_path).format == "catboost"


@pytest.mark.parametrize("content", [b"", b"CBM1", b"nothing of the kind", b"CBM1" + b"\xff" * 100])
def test_a_damaged_file_is_refused_and_ends_no_process(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.cbm").write_bytes(content)

    with pytest.raises(LoadFailed, match=r"model\.cbm .*; save it again"):
        load_model(detect(tmp_path))


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "catboost", None)
    (tmp_path / "model.cbm").write_bytes(b"CBM1")

    with pytest.raises(LoadFailed, match=r"catboost is not installed; pip install 'modelyard\[catboost\]'"):
        load_model(detect(tmp_path))
