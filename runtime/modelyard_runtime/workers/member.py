"""One worker of several, as it sees itself: which it is, and where the others are."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.workers.board import Board

__all__ = ["WORKER", "Member", "read_models", "write_models"]

WORKER = "MODELYARD_WORKER"
"""The variable in which the supervisor tells a worker who it is; no setting, so it is not in the contract."""
_MODELS = "models.json"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """Worker `index` of `workers`, started by the process `supervisor`. `folder` holds what the workers share."""

    folder: str
    index: int
    workers: int
    supervisor: int
    returning: bool
    """Whether the others serve already: then this one takes connections only once it can answer."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Member | None:
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

    def board(self) -> Board:
        """Map the board. Raises OSError."""
        return Board(self.path, self.workers)

    @staticmethod
    def failure_file(folder: Path, index: int) -> Path:
        """Return where a worker's termination message goes."""
        return folder / f"{index}.failure"


def write_models(folder: Path, models: list[dict[str, Any]], *, watch: bool) -> None:
    """Leave word of what the workers are to serve."""
    (folder / _MODELS).write_text(json.dumps({"models": models, "watch": watch}))


def read_models(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return what `write_models` left: the models, and whether they are watched."""
    data = json.loads((folder / _MODELS).read_text())
    return data["models"], data["watch"]
