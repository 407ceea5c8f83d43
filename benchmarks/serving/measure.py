"""Starting a server on one core, loading it from another, and reading what the load generator says.

wrk makes the load of HTTP/1.1, h2load that of gRPC: both are small programs in C, which one core is enough for.
"""

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

import grpc
import psutil
from servers import Ports, Request, Server

__all__ = ["Load", "Started", "load", "started"]

SERVER_CORE, LOAD_CORE = "0", "1"
_PATIENCE = 90.0


@dataclass(frozen=True)
class Started:
    """A running server: where, after how many seconds it was ready, and its memory (its process and all below it)."""

    ports: Ports
    start_seconds: float
    pid: int

    def url(self, path: str, *, grpc: bool = False) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.ports.grpc if grpc else self.ports.http}{path}"

    def rss_mib(self) -> float:
        """Return the resident memory in MiB."""
        return sum(process.memory_info().rss for process in _family(self.pid)) / 2**20


@dataclass(frozen=True)
class Load:
    """What one run of the load generator saw."""

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


def _free_ports() -> Ports:
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return Ports(*(int(probe.getsockname()[1]) for probe in sockets))


@contextlib.contextmanager
def started(server: Server, model: Path, cache: Path) -> Iterator[Started]:
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
            running = Started(ports, 0.0, process.pid)
            _wait_until_ready(process, running, server.ready, folder / "log")
            yield Started(ports, time.monotonic() - begun, process.pid)
        finally:
            # Not by process group: some servers give their workers groups of their own.
            for member in _family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
            log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], running: Started, path: str, log: Path) -> None:
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


def load(running: Started, request: Request, *, connections: int, seconds: int) -> Load:
    """Post a request over and over; raise RuntimeError when the load generator fails."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "body").write_bytes(request.body)
        if request.grpc:
            _call_once(running, request)
            return _h2load(running, request, folder, connections, seconds)
        return _wrk(running, request, folder, connections, seconds)


def _call_once(running: Started, request: Request) -> None:
    """Fail where the answer is an error: over HTTP/2 it would be a 200 all the same."""
    with grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}") as channel:
        answer = channel.unary_unary(request.path)(request.body[5:], timeout=20)
    if not answer:
        raise RuntimeError("the gRPC server's answer is empty")


def _wrk(running: Started, request: Request, folder: Path, connections: int, seconds: int) -> Load:
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    (folder / "post.lua").write_text(
        f'wrk.method = "POST"\nlocal file = io.open("{folder}/body", "rb")\nwrk.body = file:read("*a")\n{headers}'
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "20s"]
    text = _run([*command, "-s", str(folder / "post.lua"), running.url(request.path)])
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


def _h2load(running: Started, request: Request, folder: Path, connections: int, seconds: int) -> Load:
    headers = [part for name, value in request.headers.items() for part in ("-H", f"{name}: {value}")]
    log = folder / "log"
    command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", f"--log-file={log}"]
    text = _run([*command, "-d", str(folder / "body"), *headers, running.url(request.path, grpc=True)])
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    if not counts:
        raise RuntimeError(f"cannot read what h2load says: {text}")
    succeeded, _, errored, timeout = map(int, counts.groups())
    # Each line is a request: its start, its status and its microseconds.
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return Load(
        succeeded / seconds, times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000, errored + timeout
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")
    return done.stdout
