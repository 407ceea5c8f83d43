"""Run with PyTorch: `python loads.py FOLDER` loads each artifact that is in the folder, and tells what became of it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from modelyard_runtime.dataplane.executor import predict_checked
from modelyard_runtime.dataplane.loading import warm_up
from modelyard_runtime.errors import RequestError, StartupFailure
from modelyard_runtime.formats import detect, load_model

ROWS = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.5], [0.0, 1.0, 1.5]])


def tell(folder: Path) -> dict[str, Any]:
    """Return an artifact's inputs, outputs and predictions, or the error with its kind."""
    try:
        model = load_model(detect(folder, allow_pickle=True))
        warm_up(model)
    except StartupFailure as exc:
        return {"error": f"{type(exc).__name__}: {exc.message}"}
    told: dict[str, Any] = {"features": model.features}
    told["inputs"], told["outputs"] = (
        [list(astuple(spec)) for spec in specs] for specs in (model.inputs, model.outputs)
    )
    try:
        told["predictions"] = predict_checked(model, ROWS).tolist()
    except RequestError as exc:
        told["refused"] = f"{exc.status} {exc.message}"
    return told


if __name__ == "__main__":
    root = Path(sys.argv[1])
    os.chdir(root)  # where one of them writes
    told = {folder.name: tell(folder) for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name != "code"}
    (root / "told.json").write_text(json.dumps(told))
