"""What is compared: how each server is installed, started and asked."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from modelyard_runtime.protocols.grpc.messages import SERVICE, Messages

__all__ = ["ECHO", "GRPC_ECHO", "SERVERS", "Ports", "Request", "Server"]

HERE = Path(__file__).parent
Rows = Sequence[Sequence[float]]
_GRPC_PATH = f"/{SERVICE}/ModelInfer"


@dataclass(frozen=True)
class Request:
    """What a client posts; with `grpc`, one framed message to the server's gRPC port."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    grpc: bool = False


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    http: int
    grpc: int
    metrics: int


def _json(path: str, data: Any) -> Request:
    return Request(path, json.dumps(data).encode())


def seed(rows: Rows) -> Request:
    """Our own API."""
    if len(rows) == 1:
        return _json("/predict", {"features": list(rows[0])})
    return _json("/predict/batch", {"instances": rows})


def v2(rows: Rows) -> Request:
    """The Open Inference Protocol as JSON."""
    tensor = {"name": "predict", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": rows}
    return _json("/v2/models/m/infer", {"inputs": [tensor]})


def v2_binary(rows: Rows) -> Request:
    """The Open Inference Protocol with its binary tensor data extension."""
    raw = np.array(rows).tobytes()
    tensor = {"name": "predict", "shape": [len(rows), len(rows[0])], "datatype": "FP64"}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return Request("/v2/models/m/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))})


def v1(rows: Rows) -> Request:
    """The protocol of KServe and TensorFlow Serving."""
    return _json("/v1/models/m:predict", {"instances": rows})


def grpc(rows: Rows) -> Request:
    """The Open Inference Protocol over gRPC, its tensor as raw bytes."""
    message = Messages().methods["ModelInfer"][0](model_name="m")
    message.inputs.add(name="predict", datatype="FP64", shape=[len(rows), len(rows[0])])
    message.raw_input_contents.append(np.array(rows).tobytes())
    data = message.SerializeToString()
    headers = {"Content-Type": "application/grpc", "te": "trailers"}
    return Request(_GRPC_PATH, struct.pack(">BI", 0, len(data)) + data, headers, grpc=True)


def _bento(rows: Rows) -> Request:
    return _json("/predict", {"instances": rows})


@dataclass(frozen=True)
class Server:
    """One server, and one of the ways to ask it. `command(model, ports, folder)` starts it on a folder of models."""

    name: str
    request: Callable[[Rows], Request]
    ready: str
    command: Callable[[Path, Ports, Path], list[str]]
    environment: Callable[[Path, Ports], Mapping[str, str]] = field(default=lambda _model, _ports: {})
    home: str = ""
    """Its environment, by the name that scripts/bench gives it; none for what needs no other than the benchmark's."""
    like: str = ""
    """Of a peer: which of ours answers the same requests."""
    statistics: str = ""
    """The path of the protocol's statistics, where the server has them."""

    def python(self, cache: Path) -> str:
        """Return the interpreter that runs it."""
        return str(cache / self.home / "bin/python") if self.home else sys.executable


def _ours(name: str, request: Callable[[Rows], Request], artifact: str = "model.skops", **settings: str) -> Server:
    def command(model: Path, _ports: Ports, folder: Path) -> list[str]:
        fetch = [sys.executable, "-m", "modelyard_runtime.artifacts", f"file://{model}/{artifact}"]
        quiet = os.environ | {"MODELYARD_TERMINATION_LOG": os.devnull}
        subprocess.run([*fetch, "--to", str(folder / "volume")], check=True, capture_output=True, env=quiet)
        return ["-m", "modelyard_runtime"]

    def environment(_model: Path, ports: Ports) -> dict[str, str]:
        return {
            "MODELYARD_MODEL_NAME": "m",
            "MODELYARD_HOST": "127.0.0.1",
            "MODELYARD_PORT": str(ports.http),
            "MODELYARD_GRPC_PORT": str(ports.grpc),
            **settings,
        }

    statistics = "/v2/models/m/stats"
    return Server(name, request, "/health/ready", command, environment, home="modelyard", statistics=statistics)


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


SERVERS = {
    server.name: server
    for server in (
        _ours("modelyard", seed),
        _ours("modelyard, native format", seed, "model.json"),
        _ours("modelyard, v2", v2),
        _ours("modelyard, v2 binary", v2_binary),
        _ours("modelyard, v1", v1),
        _ours("modelyard, gRPC", grpc),
        _ours("modelyard, without batching", seed, MODELYARD_BATCH_MAX_ROWS="1"),
        Server("mlserver", v2, "/v2/models/m/ready", _mlserver, home="mlserver", like="modelyard, v2"),
        Server("mlserver, gRPC", grpc, "/v2/models/m/ready", _mlserver, home="mlserver", like="modelyard, gRPC"),
        Server(
            "kserve",
            v1,
            "/v1/models/m",
            lambda model, ports, _: [str(HERE / "kserve_server.py"), str(model / "model.joblib"), str(ports.http)],
            home="kserve",
            like="modelyard, v1",
        ),
        Server(
            "bentoml",
            _bento,
            "/readyz",
            lambda _model, ports, _: [
                *("-m", "bentoml", "serve", "bentoml_service:Service", "--working-dir", str(HERE)),
                *("--host", "127.0.0.1", "--port", str(ports.http)),
            ],
            lambda model, _: {"MODEL": str(model / "model.joblib"), "BENTOML_DO_NOT_TRACK": "True"},
            home="bentoml",
            like="modelyard",
        ),
    )
}

ECHO = Server("echo", seed, "/", lambda _model, ports, _: [str(HERE / "echo.py"), str(ports.http)])
GRPC_ECHO = Server("echo, gRPC", grpc, "", lambda _model, ports, _: [str(HERE / "grpc_echo.py"), str(ports.grpc)])
