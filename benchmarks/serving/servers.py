"""The servers that are compared, and how each is installed and started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ECHO", "GRPC_ECHO", "SERVERS", "Ports", "Server"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Server:
    """One server. `command(model, ports, folder)` starts it on a folder of models, with a scratch folder of its own."""

    name: str
    ready: str
    """The path that answers 200 once it is ready; none: it is ready when its gRPC port accepts connections."""
    command: Callable[[Path, Ports, Path], list[str]]
    environment: Callable[[Path, Ports], Mapping[str, str]] = field(default=lambda _model, _ports: {})
    home: str = ""
    """Its environment, by the name that scripts/bench gives it; none for one that runs in the benchmark's own."""
    statistics: str = ""
    """The path of the statistics of OIP v2, where the server has them."""

    def python(self, cache: Path) -> str:
        """Return the interpreter that runs it."""
        return str(cache / self.home / "bin/python") if self.home else sys.executable


def _ours(name: str, artifact: str = "model.skops", **settings: str) -> Server:
    def command(model: Path, _ports: Ports, folder: Path) -> list[str]:
        fetch = [sys.executable, "-m", "modelyard_runtime.artifacts", f"file://{model}/{artifact}"]
        quiet = os.environ | {"MODELYARD_TERMINATION_LOG": os.devnull}
        subprocess.run([*fetch, "--to", str(folder / "volume")], check=True, capture_output=True, env=quiet)
        return ["-m", "modelyard_runtime"]

    def environment(_model: Path, ports: Ports) -> dict[str, str]:
        return {
            "PYTHONPATH": str(HERE.parents[1] / "runtime"),
            "MODELYARD_MODEL_NAME": "m",
            "MODELYARD_HOST": "127.0.0.1",
            "MODELYARD_PORT": str(ports.http),
            "MODELYARD_GRPC_PORT": str(ports.grpc),
            **settings,
        }

    return Server(name, "/health/ready", command, environment, home="modelyard", statistics="/v2/models/m/stats")


def _mlserver(model: Path, ports: Ports, folder: Path) -> list[str]:
    settings: dict[str, Any] = {
        "name": "m",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(model / "model.joblib")},
    }
    if (model / "batched").exists():  # its adaptive batching, at the setting that served it best
        settings |= {"max_batch_size": 64, "max_batch_time": 0.002}
    server = {
        "http_port": ports.http,
        "grpc_port": ports.grpc,
        "metrics_port": ports.metrics,
        "parallel_workers": 0,
        "debug": False,
        "host": "127.0.0.1",
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    (folder / "settings.json").write_text(json.dumps(server))
    return ["-c", "from mlserver.cli import main; main()", "start", str(folder)]


def _kserve(model: Path, ports: Ports, _folder: Path) -> list[str]:
    return [str(HERE / "kserve_server.py"), str(model / "model.joblib"), str(ports.http)]


def _bentoml(_model: Path, ports: Ports, _folder: Path) -> list[str]:
    serve = ["-m", "bentoml", "serve", "bentoml_service:Service", "--working-dir", str(HERE)]
    return [*serve, "--host", "127.0.0.1", "--port", str(ports.http)]


def _bentoml_environment(model: Path, _ports: Ports) -> dict[str, str]:
    return {"MODEL": str(model / "model.joblib"), "BENTOML_DO_NOT_TRACK": "True"}


SERVERS = {
    server.name: server
    for server in (
        _ours("modelyard"),
        _ours("modelyard, native format", "model.json"),
        _ours("modelyard, without batching", MODELYARD_BATCH_MAX_ROWS="1"),
        Server("mlserver", "/v2/models/m/ready", _mlserver, home="mlserver"),
        Server("kserve", "/v1/models/m", _kserve, home="kserve"),
        Server("bentoml", "/readyz", _bentoml, _bentoml_environment, home="bentoml"),
    )
}

ECHO = Server("echo", "/", lambda _model, ports, _: [str(HERE / "echo.py"), str(ports.http)])
GRPC_ECHO = Server("echo, gRPC", "", lambda _model, ports, _: [str(HERE / "grpc_echo.py"), str(ports.grpc)])
