"""Starting a server on a core of its own, waiting until it is ready, and its memory and processor time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.servers import Ports, Server

__all__ = ["Process", "started"]

SERVER_CORE = "0"
_PATIENCE = 90.0


@dataclass(frozen=True)
class Process:
    """A running server; memory and processor time are those of its process and all below it."""

    ports: Ports
    pid: int
    cache: Path
    start_seconds: float = 0.0

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.ports.http}{path}"

    def rss_mib(self) -> float:
        """Return the resident memory in MiB."""
        return sum(process.memory_info().rss for process in _family(self.pid)) / 2**20

    def cpu_seconds(self) -> float:
        """Return the seconds of processor time used until now, user and system."""
        times = [process.cpu_times() for process in _family(self.pid)]
        return float(sum(time.user + time.system for time in times))


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it; none once it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _free_ports() -> Ports:
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return Ports(*(int(probe.getsockname()[1]) for probe in sockets))


@contextlib.contextmanager
def started(server: Server, model: Path, cache: Path) -> Iterator[Process]:
    """Start a server on its core and wait until it is ready; end it and all below it afterwards."""
    ports = _free_ports()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = server.command(model, ports, folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **server.environment(model, ports)}
        environment["MODELYARD_MODEL_DIR"] = str(folder / "volume")
        log = (folder / "log").open("w")
        begun = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, server.python(cache), *command],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            running = Process(ports, process.pid, cache)
            _wait_until_ready(process, running, server.ready, folder / "log")
            yield Process(ports, process.pid, cache, time.monotonic() - begun)
        finally:
            # Not by process group: some servers give their workers groups of their own.
            for member in _family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
            log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], running: Process, path: str, log: Path) -> None:
    """Wait for a 200 at `path`; without one, for a gRPC connection."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            if not path:
                socket.create_connection(("127.0.0.1", running.ports.grpc), timeout=2).close()
                return
            with urllib.request.urlopen(running.url(path), timeout=2) as answer:  # noqa: S310 - our own loopback address
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"not ready within {_PATIENCE:.0f} s: {log.read_text()[-2000:]}")
