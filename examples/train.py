"""Trains the examples' models on a data set that ships with scikit-learn, and keeps some rows to predict.

    python examples/train.py DIR

writes

    DIR/models/diagnosis/1          logistic regression on five of the thirty measurements
    DIR/models/diagnosis/2          the same on all of them
    DIR/models/diagnosis-forest/1   a random forest on all of them
    DIR/held-out.json               rows that none of them has seen, with their labels

Each model is a scikit-learn pipeline saved with skops: no pickle. `DIR/models` is the claim `models` of the manifests
beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["train"]


def _models() -> dict[str, Pipeline]:
    five = ColumnTransformer([("five", StandardScaler(), [0, 1, 2, 3, 4])])
    return {
        "diagnosis/1": make_pipeline(five, LogisticRegression(max_iter=1000)),
        "diagnosis/2": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "diagnosis-forest/1": make_pipeline(RandomForestClassifier(n_estimators=50, random_state=0)),
    }


def train(folder: Path) -> dict[str, float]:
    """Train and save the models and the held-out rows; return each model's accuracy on those rows."""
    data = load_breast_cancer()
    labels = data.target_names[data.target]
    train_rows, test_rows, train_labels, test_labels = train_test_split(data.data, labels, random_state=0)
    accuracy = {}
    for name, model in _models().items():
        model.fit(train_rows, train_labels)
        accuracy[name] = float(model.score(test_rows, test_labels))
        target = folder / "models" / name
        target.mkdir(parents=True, exist_ok=True)
        skops.io.dump(model, target / "model.skops")
    held_out = {"instances": test_rows.tolist(), "labels": test_labels.tolist()}
    (folder / "held-out.json").write_text(json.dumps(held_out))
    return accuracy


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/train.py DIR")
    for trained, score in train(Path(sys.argv[1])).items():
        print(f"{trained:20} accuracy {score:.3f} on held-out rows")
