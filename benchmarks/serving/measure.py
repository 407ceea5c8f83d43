"""Starting a server on one core, loading it from another, and reading what wrk says."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from servers import Request, Server

__all__ = ["Load", "Started", "load", "started"]

SERVER_CORE, LOAD_CORE = "0", "1"
_PATIENCE = 90.0


@dataclass(frozen=True)
class Started:
    """A running server: where, after how many seconds it was ready, and its memory (its process and all below it)."""

    url: str
    start_seconds: float
    pid: int

    def rss_mib(self) -> float:
        """Return the resident memory in MiB."""
        return sum(process.memory_info().rss for process in _family(self.pid)) / 2**20


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it; none once it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(server: Server, model: Path, cache: Path) -> Iterator[Started]:
    """Start a server on its core and wait until it is ready; end it and all below it afterwards."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = server.command(model, port, folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **server.environment(model, port)}
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
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url + server.ready, folder / "log")
            yield Started(url, time.monotonic() - begun, process.pid)
        finally:
            # Not by process group: some servers give their workers groups of their own.
            for member in _family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
            log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"not ready within {_PATIENCE:.0f} s: {log.read_text()[-2000:]}")


def load(url: str, request: Request, *, connections: int, seconds: int) -> Load:
    """Post a request over and over; raise RuntimeError when wrk fails."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "body").write_text(request.body)
        script = Path(scratch) / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nlocal file = io.open("{scratch}/body")\nwrk.body = file:read("*a")\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
        )
        command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        done = subprocess.run(
            [*command, "--timeout", "20s", "-s", str(script), url + request.path],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr}")
    return _read(done.stdout)


def _read(text: str) -> Load:
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not rate:
        raise RuntimeError(f"cannot read what wrk says: {text}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = int(bad[1]) if bad else 0
    errors += sum(map(int, socket_errors.groups())) if socket_errors else 0
    return Load(float(rate[1]), _latency(text, "50%"), _latency(text, "99%"), errors)


def _latency(text: str, which: str) -> float:
    found = re.search(rf"^\s+{which}\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    if not found:
        raise RuntimeError(f"cannot read what wrk says: {text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}[found[2]]
