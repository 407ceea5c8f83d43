"""What the runtime's tests share: an application in this process, and a real server in another."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from modelyard_runtime.application import Application
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.contract import Env
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.formats import Batching, Model, RowsModel, TensorSpec
from modelyard_runtime.formats.base import INDEPENDENT_ROWS
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.settings import Settings
from waiting import eventually

NAMES = ("age", "income", "tenure", "calls")
LOGISTIC = {
    "type": "logistic",
    "weights": [1, -1, 0.5, 2],
    "bias": 0.1,
    "classes": ["stay", "leave"],
    "feature_names": list(NAMES),
    "metadata": {"performance": {"accuracy": "0.93"}},
}
SUM = {"type": "linear", "weights": [1, 1]}
UNSUPPORTED: list[Callable[[Any], Any]] = [
    lambda client: client.get_trace_settings(),
    lambda client: client.update_trace_settings("churn", {"trace_rate": "1"}),
    lambda client: client.get_log_settings(),
    lambda client: client.update_log_settings({"log_verbose_level": 1}),
    lambda client: client.get_system_shared_memory_status(),
    lambda client: client.register_system_shared_memory("region", "/key", 64),
    lambda client: client.unregister_system_shared_memory(),
    lambda client: client.get_cuda_shared_memory_status(),
    lambda client: client.unregister_cuda_shared_memory("region"),
]
"""Calls of tritonclient, in its HTTP and its gRPC form, to what is Triton's own."""


def write_model(folder: Path, model: Mapping[str, Any]) -> str:
    """Write model.json into `folder` and return its URI."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(model))
    return folder.as_uri()


@dataclass
class FakeModel(RowsModel):
    """A model that does what a test says."""

    answer: Callable[[Any], Any] = lambda rows: rows.sum(axis=1)
    features: int | None = 2
    feature_names: Sequence[str] | None = None
    inline: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
    batching: Batching = INDEPENDENT_ROWS
    inputs: Sequence[TensorSpec] = (TensorSpec("features", "FP64", (-1, 2)),)
    outputs: Sequence[TensorSpec] = (TensorSpec("prediction", "FP64", (-1,)),)

    def predict(self, rows: Any) -> Any:
        return np.asarray(self.answer(rows))


class FakeTransport(asyncio.Transport):
    """A connection's other side, which keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the answers so far that say 200."""
        return [part.partition(b"\r\n\r\n")[2] for part in self.written.split(b"HTTP/1.1 200 OK")[1:]]


class Api:
    """An application in this process, spoken to over ASGI; `now` is its clock."""

    def __init__(self, models: Mapping[str, Model], *, threads: int = 1, **settings: Any) -> None:
        self.now = 0.0
        self.drain = Drain(lambda: self.now)
        self.app = Application(
            Settings(model_name="m", **settings),
            drain=self.drain,
            clock=lambda: self.now,
            threads=threads,
        )
        for name, model in models.items():
            self.activate(name, "1", model)

    def activate(self, name: str, version: str, model: Model) -> None:
        self.app.registry.activate(ServedModel(name, version, "linear", "sha256:00", "file:///m", model))

    async def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return asyncio.run(self.request(method, path, **kwargs))

    def predict(self, body: Any, path: str = "/predict") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content=content)


@dataclass
class Server:
    """A runtime in a process of its own."""

    process: subprocess.Popen[str]
    host: str
    port: int
    termination_log: Path
    grpc_port: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def status(self, path: str) -> int:
        return httpx.get(self.url + path, timeout=30).status_code

    def wait_for(self, path: str, status: int) -> None:
        """Wait until a GET answers `status`."""

        def look() -> int | None:
            assert self.process.poll() is None, "the server ended"
            try:
                return self.status(path)
            except httpx.TransportError:
                return None

        eventually(look, lambda found: found == status, f"{path} to answer {status}")

    def finish(self) -> int:
        return self.process.wait(timeout=60)


@contextmanager
def held_port() -> Iterator[int]:
    """Keep a port of loopback for a server that asks for it while the block runs; nobody listens on it before.

    A port that was only picked may be another's by the time that its server is there.
    """
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        # Two may have a port that both don't mind sharing, as long as one of them does not listen: servers don't mind.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield keeper.getsockname()[1]


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process, or ask it to end where its coverage is measured, which it writes when it ends by itself."""
    if "COVERAGE_RUN" in os.environ:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
    process.kill()
    process.communicate()


@contextmanager
def start_server(
    folder: Path, model: Mapping[str, Any] | None = None, *, python: str | Path = sys.executable, **env: str
) -> Iterator[Server]:
    """Start `python -m modelyard_runtime` on `model` (fetched into `folder` before, when given); kill it at the end."""
    volume = folder / "volume"
    if model is not None:
        fetch(write_model(folder / "source", model), volume)
    log = folder / "termination-log"
    with held_port() as port, held_port() as grpc_port:
        settings = {
            Env.MODEL_NAME: "churn",
            Env.MODEL_DIR: str(volume),
            Env.HOST: "127.0.0.1",
            Env.PORT: str(port),
            Env.GRPC_PORT: str(grpc_port),
            Env.DRAIN_DELAY: "0.3",
            Env.TERMINATION_LOG: str(log),
        }
        environment = {**os.environ, **{key.value: value for key, value in settings.items()}, **env}
        command = [python, "-m", "modelyard_runtime"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            yield Server(process, "127.0.0.1", port, log, grpc_port)
        finally:
            _end(process)
