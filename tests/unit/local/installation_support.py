"""A whole installation, driven by the command line as a person drives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from modelyard_local.reaper import marked
from waiting import eventually

SECONDS = 100.0


@dataclass
class Result:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str


@dataclass
class Installation:
    """A state folder, and `modelyard local` on it."""

    state: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *words: str, stdin: str | None = None) -> Result:
        """Run a command; it must not show a traceback."""
        command = [
            sys.executable,
            "-m",
            "modelyard_cli.main",
            "local",
            words[0],
            "--state",
            str(self.state),
            *words[1:],
        ]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, stdin: str | None = None) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, stdin=stdin)
        assert done.code == 0, done.err
        return done.out

    def apply(self, *objects: dict[str, Any]) -> str:
        return self.ok("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("get", kind, name, "-o", "json"))
        return found

    def ready(self, *targets: str) -> None:
        self.ok("wait", "--for=condition=Ready", *targets, f"--timeout={SECONDS:g}s")

    def up(self, *words: str) -> subprocess.Popen[bytes]:
        """Start in the foreground of a process of its own, and wait until it answers."""
        command = [sys.executable, "-m", "modelyard_cli.main", "local", "up", "--state", str(self.state), *words]
        with (self.state / "test.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        eventually(lambda: self.run("get").code == 0 or process.poll() is not None, what="up answers")
        assert process.poll() is None, self.log()
        return process

    def log(self) -> str:
        return (self.state / "test.log").read_text()

    def left(self) -> list[int]:
        """Return the processes of the installation that run, besides `up` itself."""
        return marked(str(self.state))

    def weights(self, name: str, *weights: float, version: str) -> dict[str, Any]:
        """Put a linear model into the claim `models`; return its ModelDeployment."""
        folder = self.state / "claims" / "models" / name / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps({"type": "linear", "weights": weights, "bias": 0}))
        return {
            "apiVersion": "modelyard.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": f"pvc://models/{name}/{version}", "name": "sum", "version": version},
                "serving": {"drainDelay": "2s"},
            },
        }


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """Give a state folder, and see to it that nothing of it runs afterwards."""
    made = Installation(folder)
    try:
        yield made
    finally:
        for process in made.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
        eventually(lambda: not made.left(), what="all processes end")
