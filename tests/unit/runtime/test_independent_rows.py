"""Rows of different requests are computed together only where each row's answer does not depend on the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pytest
from modelyard_runtime.formats import Batching, Model, detect, load_model
from modelyard_runtime.formats.base import INDEPENDENT_ROWS
from modelyard_runtime.formats.estimators import batching_of
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import NMF
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from unit.runtime.support import Api

NORMALIZES = """
class Model:
    features = 1
    {more}

    def predict(self, rows):
        return rows[:, 0] / rows.sum()
"""
DOUBLES = """
class Model:
    features = 1
    {more}

    def predict(self, rows):
        return rows[:, 0] * 2
"""
AGREED = Batching(True, "batchable was declared, and the trial at load agreed")


def python_model(folder: Path, code: str, more: str = "", batchable: bool | None = None) -> Model:
    (folder / "model.py").write_text(code.format(more=more))
    return load_model(detect(folder, allow_pickle=True), batchable=batchable)


def graph(
    folder: Path, nodes: Sequence[Any], given: Sequence[Any], made: Sequence[Any], batchable: bool | None = None
) -> Model:
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, made, [half]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, folder / "model.onnx")
    return load_model(detect(folder), batchable=batchable)


def tensor(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def softmax_over_rows(folder: Path, batchable: bool | None = None) -> Model:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    return graph(folder, [node], [tensor("x", "n", 1)], [tensor("y", "n", 1)], batchable)


def softmax_over_columns(folder: Path, batchable: bool | None = None) -> Model:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    return graph(folder, [node], [tensor("x", "n", 3)], [tensor("y", "n", 3)], batchable)


def detections(folder: Path, batchable: bool | None = None) -> Model:
    """One row for each value above 0.5: (image, y, x), of as many as there are."""
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["whole"], to=TensorProto.INT64),
        helper.make_node("NonZero", ["whole"], ["found"]),
        helper.make_node("Transpose", ["found"], ["y"], perm=[1, 0]),
    ]
    made = tensor("y", "detections", 3, kind=TensorProto.INT64)
    return graph(folder, nodes, [tensor("x", "images", 2, 1)], [made], batchable)


def swapped(folder: Path, batchable: bool | None = None) -> Model:
    """Rows in the order of their values: as many as there were, and of other requests."""
    nodes = [
        helper.make_node("Constant", [], ["count"], value_ints=[-1]),
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("CumSum", ["z", "axis"], ["y"]),
        helper.make_node("Constant", [], ["axis"], value_int=0),
    ]
    return graph(folder, [nodes[0], nodes[3], *nodes[1:3]], [tensor("x", None, 1)], [tensor("y", None, 1)], batchable)


def ask_together(model: Model, bodies: Sequence[Any], path: str) -> list[Any]:
    """Send requests at once to a server with one thread; return their answers' bodies."""
    api = Api({"m": model}, threads=1)

    async def ask() -> list[Any]:
        answers = await asyncio.gather(*(api.request("POST", path, content=json.dumps(body)) for body in bodies))
        assert [answer.status_code for answer in answers] == [200] * len(bodies), answers[0].text
        return [answer.json() for answer in answers]

    try:
        return asyncio.run(ask())
    finally:
        api.app.close()


def infer(shape: Sequence[int], data: Sequence[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}


@pytest.mark.parametrize("batchable", [None, True])
def test_a_softmax_over_the_rows_of_a_request_stays_one_of_its_own(batchable: bool | None, tmp_path: Path) -> None:
    model = softmax_over_rows(tmp_path, batchable)

    answers = ask_together(model, [infer([2, 1], [1, 1])] * 60, "/v2/models/m/infer")

    assert [answer["outputs"][0]["data"] for answer in answers] == [[0.5, 0.5]] * 60


@pytest.mark.parametrize("batchable", [None, True])
def test_detections_are_those_of_ones_own_image(batchable: bool | None, tmp_path: Path) -> None:
    model = detections(tmp_path, batchable)
    images = {0: ([1, 0], [0, 0, 0]), 1: ([0, 1], [0, 1, 0]), 2: ([0, 0], [])}

    answers = ask_together(model, [infer([1, 2, 1], images[i % 3][0]) for i in range(60)], "/v2/models/m/infer")

    assert [answer["outputs"][0]["data"] for answer in answers] == [images[i % 3][1] for i in range(60)]


@pytest.mark.parametrize("more", ["", "batchable = True"])
def test_a_class_that_normalizes_over_rows_sees_one_request_at_a_time(more: str, tmp_path: Path) -> None:
    model = python_model(tmp_path, NORMALIZES, more)

    answers = ask_together(model, [{"instances": [[1], [3 + i]]} for i in range(60)], "/predict/batch")

    assert [answer["predictions"][0] for answer in answers] == [1 / (4 + i) for i in range(60)]


def test_declared_rows_are_gathered(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    noting = f"with open({str(log)!r}, 'a') as log: log.write(f'{{{{len(rows)}}}} ')"
    code = DOUBLES.replace("return", f"{noting}\n        return")
    model = python_model(tmp_path, code, "batchable = True")
    log.write_text("")

    answers = ask_together(model, [{"features": [i]} for i in range(60)], "/predict")

    assert [answer["prediction"] for answer in answers] == [2 * i for i in range(60)]
    assert max(map(int, log.read_text().split())) > 1


@pytest.mark.parametrize(
    ("make", "batchable", "allowed", "reason"),
    [
        (softmax_over_columns, None, False, "declare batchable: true"),
        (softmax_over_columns, True, True, "the trial at load agreed"),
        (softmax_over_rows, None, False, "declare batchable: true"),
        (softmax_over_rows, True, False, "y of rows that are computed together differs from that of each alone"),
        (detections, True, False, "its tensors begin with different axes: detections, images"),
        (swapped, True, False, "y of rows that are computed together differs"),
        (partial(python_model, code=DOUBLES), None, False, "declare batchable: true"),
        (partial(python_model, code=DOUBLES), True, True, "the trial at load agreed"),
        (partial(python_model, code=DOUBLES, more="batchable = True"), None, True, "the trial at load agreed"),
        (partial(python_model, code=DOUBLES, more="batchable = True"), False, False, "batchable: false"),
        (
            partial(python_model, code=NORMALIZES, more="batchable = True"),
            None,
            False,
            "the trial at load did not agree",
        ),
        (partial(python_model, code=NORMALIZES), True, False, "the trial at load did not agree"),
    ],
)
def test_the_authors_word_counts_where_a_trial_agrees(
    make: Callable[..., Model], batchable: bool | None, allowed: bool, reason: str, tmp_path: Path
) -> None:
    found = make(tmp_path, batchable=batchable).batching

    assert (found.allowed, reason in found.reason) == (allowed, True), found


def test_the_word_may_forbid_what_the_format_knows(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"type": "linear", "weights": [1]}')

    assert load_model(detect(tmp_path)).batching == INDEPENDENT_ROWS
    assert load_model(detect(tmp_path), batchable=False).batching == Batching(False, "parameters say batchable: false")


class Ranks(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Somebody's own estimator, which ranks the rows of a call."""

    def fit(self, rows: Any, target: Any) -> Ranks:
        self.n_features_in_ = 1
        return self

    def predict(self, rows: Any) -> Any:
        return np.argsort(np.argsort(rows[:, 0]))


def _fitted(estimator: Any) -> Any:
    random = np.random.default_rng(0)
    rows = np.abs(random.normal(size=(60, 3)))
    return estimator.fit(rows, (rows[:, 0] > 0.6).astype(int))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), SelectKBest(f_classif, k=2), LogisticRegression()),
        make_pipeline(ColumnTransformer([("log", FunctionTransformer(np.log1p), [0])]), KNeighborsClassifier()),
        GridSearchCV(RandomForestClassifier(n_estimators=5), {"max_depth": [1, 2]}, cv=2, scoring="roc_auc"),
        VotingClassifier([("a", GradientBoostingClassifier(n_estimators=3)), ("b", SVC())]),
        TransformedTargetRegressor(LinearRegression(), func=np.log1p, inverse_func=np.expm1),
        lightgbm.LGBMClassifier(n_estimators=2, verbose=-1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_rows_of_known_estimators_are_independent(estimator: Any) -> None:
    assert batching_of(_fitted(estimator)) == INDEPENDENT_ROWS


def test_rows_of_texts_are_independent() -> None:
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good one", "bad one"] * 5, [0, 1] * 5)

    assert batching_of(fitted) == INDEPENDENT_ROWS


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (
            make_pipeline(FunctionTransformer(lambda rows: rows / rows.sum()), LogisticRegression()),
            "the function <lambda>",
        ),
        (make_pipeline(FunctionTransformer(partial(np.cumsum, axis=0)), LogisticRegression()), "the function cumsum"),
        (GridSearchCV(make_pipeline(Ranks()), {}, cv=2, scoring="r2"), "Ranks treats rows independently"),
        (make_pipeline(NMF(2, max_iter=50, tol=0.1), LogisticRegression()), "NMF does not treat rows independently"),
        (DummyClassifier(strategy="uniform", random_state=0), "answers at random"),
        (SVC(kernel=lambda a, b: a @ b.T), "the function <lambda>"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_rows_of_others_are_not_known_to_be(estimator: Any, reason: str) -> None:
    found = batching_of(_fitted(estimator))

    assert (found.allowed, reason in found.reason) == (False, True), found


def test_an_estimator_that_ranks_rows_is_found_out_in_a_trial(tmp_path: Path) -> None:
    joblib.dump(Ranks().fit([[1.0]], [1.0]), tmp_path / "model.joblib")

    model = load_model(detect(tmp_path, allow_pickle=True), batchable=True)

    assert model.batching.allowed is False
    assert "differs from that of each alone" in model.batching.reason
