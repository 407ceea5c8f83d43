"""Two servers of the same models, one with every shortcut turned off, and the same requests to both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from unit.runtime.differential.wire import Exchange, exchange
from unit.runtime.support import Server, held_port

__all__ = ["MAX_BODY_BYTES", "REPEATS", "Ways", "started"]

IDENTITY = {"type": "linear", "weights": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "bias": [0, 0, 0, 0]}
TENFOLD = {"type": "linear", "weights": [10, 10, 10, 10], "bias": 0}
SLOW = """
import time

class Model:
    features = 4

    def load(self, folder):
        pass

    def predict(self, rows):
        time.sleep(float(rows[:, 3].max()) if 0 < rows[:, 3].max() < 1 else 0)
        return rows.copy()
"""
MAX_BODY_BYTES = 1_000_000
REPEATS = 3
"""A shortcut may begin with the second request that is alike."""


class Ways(NamedTuple):
    """The servers; their models are `ident` (four numbers are their own prediction), `over` (ten times the sum of
    four), `slow` (as ident, after as many seconds as the last number says) and `ir-is` (as ident)."""

    short: Server
    general: Server

    def exchange(
        self,
        *pieces: bytes,
        half_close: bool = False,
        head: bool = False,
        remembers: bool = False,
        repeats: int = REPEATS,
    ) -> Exchange:
        """Return what the pieces of a request bring, of either server and however often it came before.

        Each server is asked on `repeats` new connections and as often on one that is kept. Where the contract lets an
        answer depend on those before (`remembers`), only the servers are compared.
        """
        seen: list[list[Exchange]] = []
        for server in self:
            seen.append([])
            for times in (*[1] * repeats, repeats):
                seen[-1] += exchange(server.port, pieces, times=times, half_close=half_close, head=head)
        short, general = seen
        assert short == general
        if not remembers:
            assert set(short) == {short[0]}
        return short[-1]


@contextmanager
def started(folder: Path, *, shortcuts: bool) -> Iterator[Server]:
    """Start one of the servers; kill it at the end."""
    models = folder / "models"
    for name, model in (("ident", IDENTITY), ("over", TENFOLD), ("ir-is", IDENTITY)):
        (models / name).mkdir(parents=True, exist_ok=True)
        (models / name / "model.json").write_text(json.dumps(model))
    (models / "slow").mkdir(exist_ok=True)
    (models / "slow" / "model.py").write_text(SLOW)
    with held_port() as port, held_port() as grpc_port:
        environment = {
            **os.environ,
            "MODELYARD_GRPC_PORT": str(grpc_port),
            "MODELYARD_SHORTCUTS": "on" if shortcuts else "off",
            "MODELYARD_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        }
        command = [
            sys.executable,
            "-m",
            "modelyard_cli.main",
            "serve",
            str(models),
            "--allow-pickle",
            "--port",
            str(port),
        ]
        with (folder / f"{port}.log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)
        try:
            server = Server(process, "127.0.0.1", port, folder / "none", grpc_port)
            server.wait_for("/health/ready", 200)
            server.wait_for("/models", 200)  # the application of the rarer routes is made when it is first asked for
            yield server
        finally:
            process.kill()
            process.wait()
