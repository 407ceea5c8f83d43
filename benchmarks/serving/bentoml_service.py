"""A BentoML service with a scikit-learn model. Runs in BentoML's environment."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1)
class Service:
    """Loads a joblib file and answers `POST /predict`."""

    def __init__(self) -> None:
        self._model = joblib.load(os.environ["MODEL"])

    @bentoml.api
    def predict(self, instances: list[list[float]]) -> list[Any]:
        """Answer `{"instances": …}` with a list."""
        predictions: list[Any] = self._model.predict(np.array(instances)).tolist()
        return predictions
