"""KServe's own server with a scikit-learn model, as its documentation writes one. Runs in KServe's environment."""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
from kserve import Model, ModelServer


class SklearnModel(Model):
    """Loads a joblib file and answers V1."""

    def __init__(self, path: str) -> None:
        super().__init__("m")
        self._model = joblib.load(path)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> dict[str, Any]:
        """Answer V1: `{"instances": …}` -> `{"predictions": …}`."""
        return {"predictions": self._model.predict(np.array(payload["instances"])).tolist()}


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None).start(
        [SklearnModel(sys.argv[1])]
    )
