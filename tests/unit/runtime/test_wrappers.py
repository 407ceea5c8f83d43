"""Wrappers around a pipeline that was fitted on a data frame are served as the pipeline itself is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.formats import detect, load_model
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame({"age": RANDOM.normal(size=200), "plan": RANDOM.choice(["a", "b"], 200)})
LABELS = np.where(TABLE["age"] > 0, "x", "z")
SEVERAL = np.c_[TABLE["age"] > 0, TABLE["plan"] == "a"].astype(int)


def pipeline(estimator: Any = None) -> Pipeline:
    columns = ColumnTransformer([("text", OneHotEncoder(), ["plan"]), ("number", StandardScaler(), ["age"])])
    return make_pipeline(columns, estimator or LogisticRegression())


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (GridSearchCV(pipeline(), {"logisticregression__C": [1, 10]}, cv=2), LABELS),
        (CalibratedClassifierCV(pipeline(), cv=2), LABELS),
        (VotingClassifier([("a", pipeline()), ("b", "drop")]), LABELS),
        (StackingClassifier([("a", pipeline())], cv=2), LABELS),
        (OneVsRestClassifier(pipeline()), LABELS),
        (MultiOutputClassifier(pipeline()), SEVERAL),
        (TransformedTargetRegressor(pipeline(Ridge())), TABLE["age"] * 2),
        (make_pipeline(FeatureUnion([("columns", pipeline()[0])]), LogisticRegression()), LABELS),
        (GridSearchCV(VotingClassifier([("a", pipeline())]), {"voting": ["soft"]}, cv=2), LABELS),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "predict") else "",
)
def test_a_wrapper_around_a_pipeline_by_names(estimator: Any, target: Any, tmp_path: Path) -> None:
    fitted = estimator.fit(TABLE, target)
    expected = fitted.predict(TABLE)
    skops.io.dump(fitted, tmp_path / "model.skops")

    model = load_model(detect(tmp_path))

    warm_up(model)
    found = model.predict(TABLE.astype(object).to_numpy())
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected)
    else:
        assert found.tolist() == expected.tolist()
    assert model.feature_names == ("age", "plan")
    assert model.text_features == {1}
