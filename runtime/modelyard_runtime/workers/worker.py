"""One worker of several, as it sees itself: which it is, and what it shares with the others."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics
from modelyard_runtime.workers.shared_state import SharedState
from modelyard_runtime.workers.shared_totals import SharedTotals

__all__ = ["WORKER", "Worker", "read_models", "write_models"]

WORKER = "MODELYARD_WORKER"
"""The variable in which the supervisor tells a worker who it is; no setting, so it is not in the contract."""
_MODELS = "models.json"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Worker `index` of `workers`, started by the process `supervisor`. `folder` holds the files that they share."""

    folder: str
    index: int
    workers: int
    supervisor: int
    listener: int
    """The descriptor of the socket on which all of them listen."""
    returning: bool
    """Whether the others serve already: then this one takes connections only once it can answer."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Worker | None:
        """Return who this process is; None for one that is no worker."""
        text = environ.get(WORKER)
        return cls(**json.loads(text)) if text else None

    def to_env(self) -> dict[str, str]:
        """Return the variable that `from_env` reads."""
        return {WORKER: json.dumps(asdict(self))}

    @property
    def path(self) -> Path:
        """The folder that the workers share."""
        return Path(self.folder)

    def end_with_supervisor(self) -> None:
        """Have the kernel kill this process when the supervisor is gone, however that comes about."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.supervisor:  # it died before the kernel knew that we care
            os._exit(1)

    @cached_property
    def state(self) -> SharedState:
        """The numbers that the workers share. Raises OSError."""
        return SharedState(self.path, self.workers)

    @property
    def complete(self) -> bool:
        """Whether all workers have been ready together: true for good from then on."""
        return self.state.complete

    @property
    def ending(self) -> bool:
        """Whether the server ends, and not this worker alone."""
        return self.state.ending

    @property
    def checks(self) -> SharedState:
        """When a router last asked any worker for its health."""
        return self.state

    def set_ready(self) -> None:
        """Note that this worker has its models ready."""
        self.state.set_ready(self.index, ready=True)

    def open_listener(self) -> socket.socket:
        """Return the socket on which all workers listen. Each closes its own descriptor of it."""
        listener = socket.socket(fileno=self.listener)
        listener.set_inheritable(False)
        listener.setblocking(False)
        return listener

    def totals(self, metrics: Metrics, statistics: Statistics) -> SharedTotals:
        """Return the totals of all workers, of which `metrics` and `statistics` are this one's share."""
        return SharedTotals(self.path, self.index, self.workers, self.state, metrics=metrics, statistics=statistics)

    @staticmethod
    def failure_file(folder: Path, index: int) -> Path:
        """Return where a worker's termination message goes."""
        return folder / f"{index}.failure"


def write_models(folder: Path, models: list[dict[str, Any]], *, watch: bool) -> None:
    """Write which models the workers are to serve."""
    (folder / _MODELS).write_text(json.dumps({"models": models, "watch": watch}))


def read_models(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the models that `write_models` wrote, and whether they are watched."""
    data = json.loads((folder / _MODELS).read_text())
    return data["models"], data["watch"]
