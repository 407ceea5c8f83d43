"""What is compared: how each server is installed, started and asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["SERVERS", "Request", "Server"]

HERE = Path(__file__).parent
Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Request:
    """What a client posts."""

    path: str
    body: str


def _seed(rows: Rows) -> Request:
    if len(rows) == 1:
        return Request("/predict", json.dumps({"features": list(rows[0])}))
    return Request("/predict/batch", json.dumps({"instances": rows}))


def _v2(rows: Rows) -> Request:
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": rows}
    return Request("/v2/models/m/infer", json.dumps({"inputs": [tensor]}))


def _v1(rows: Rows) -> Request:
    return Request("/v1/models/m:predict", json.dumps({"instances": rows}))


def _bento(rows: Rows) -> Request:
    return Request("/predict", json.dumps({"instances": rows}))


@dataclass(frozen=True)
class Server:
    """One server. `command(model, port, folder)` starts it; `model` is a folder with model.skops and model.joblib."""

    name: str
    request: Callable[[Rows], Request]
    ready: str
    command: Callable[[Path, int, Path], list[str]]
    environment: Callable[[Path, int], Mapping[str, str]] = field(default=lambda _model, _port: {})
    peer: str = ""
    """Its environment, from peers/NAME.txt; none for our own."""

    artifact: str = "model.joblib"
    """The file it loads; models that lack it are left out."""

    def python(self, cache: Path) -> str:
        """Return the interpreter that runs it."""
        return str(cache / self.peer / "bin/python") if self.peer else sys.executable


def _fetch(model: Path, artifact: str, folder: Path) -> list[str]:
    uri = f"file://{model}/{artifact}"
    fetch = [sys.executable, "-m", "modelyard_runtime.artifacts", uri, "--to", str(folder / "volume")]
    subprocess.run(fetch, check=True, capture_output=True, env=os.environ | {"MODELYARD_TERMINATION_LOG": os.devnull})
    return ["-m", "modelyard_runtime"]


def _ours_environment(_model: Path, port: int) -> dict[str, str]:
    return {"MODELYARD_MODEL_NAME": "m", "MODELYARD_HOST": "127.0.0.1", "MODELYARD_PORT": str(port)}


def _mlserver(model: Path, port: int, folder: Path) -> list[str]:
    settings: dict[str, Any] = {
        "name": "m",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(model / "model.joblib")},
    }
    if (model / "batched").exists():  # its adaptive batching, at the setting that served it best
        settings |= {"max_batch_size": 64, "max_batch_time": 0.002}
    server = {
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
        "host": "127.0.0.1",
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    (folder / "settings.json").write_text(json.dumps(server))
    return ["-c", "from mlserver.cli import main; main()", "start", str(folder)]


SERVERS = (
    Server(
        "modelyard",
        _seed,
        "/health/ready",
        lambda model, _port, folder: _fetch(model, "model.skops", folder),
        _ours_environment,
        artifact="model.skops",
    ),
    Server(
        "modelyard, native format",
        _seed,
        "/health/ready",
        lambda model, _port, folder: _fetch(model, "model.json", folder),
        _ours_environment,
        artifact="model.json",
    ),
    Server("mlserver", _v2, "/v2/models/m/ready", _mlserver, peer="mlserver"),
    Server(
        "kserve",
        _v1,
        "/v1/models/m",
        lambda model, port, _folder: [str(HERE / "kserve_server.py"), str(model / "model.joblib"), str(port)],
        peer="kserve",
    ),
    Server(
        "bentoml",
        _bento,
        "/readyz",
        lambda _model, port, _folder: [
            *("-m", "bentoml", "serve", "bentoml_service:Service", "--working-dir", str(HERE)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        lambda model, _port: {"MODEL": str(model / "model.joblib"), "BENTOML_DO_NOT_TRACK": "True"},
        peer="bentoml",
    ),
)

ECHO = Server("echo", _seed, "/", lambda _model, port, _folder: [str(HERE / "echo.py"), str(port)])
