"""Loading a server from a core of its own, and reading what the load generator says.

wrk makes the load of HTTP/1.1, with a script that draws on prepared requests; `grpcload` beside this file that of gRPC.
"""

from __future__ import annotations

import json
import re
import resource
import struct
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.serving.process import Process
from benchmarks.serving.protocols import Protocol, Request

__all__ = ["Load", "Pool", "ask", "load"]

LOAD_CORE = "1"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Pool:
    """A file of prepared requests, of which the load generators take one after the other."""

    file: Path
    protocol: Protocol
    path: str
    """The path of the requests; of gRPC, the method."""

    @classmethod
    def write(cls, file: Path, protocol: Protocol, requests: Sequence[Request]) -> Pool:
        """Write the requests, which are all of one protocol and to one path."""
        with file.open("wb") as out:
            for request in requests:
                data = request.body if protocol.grpc else request.http()
                out.write(struct.pack("<I", len(data)) + data)
        return cls(file, protocol, requests[0].path)


@dataclass(frozen=True)
class Load:
    """The figures of one run of the load generator."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    server_cpu_us: float
    """Processor time of the server a request, user and system, in microseconds."""
    load_cpu_us: float
    """That of the load generator: 1e6 / this is the most requests a second that it could make."""


def ask(process: Process, protocol: Protocol, request: Request) -> list[float]:
    """Ask once and return the predictions; raise OSError or grpc.RpcError where the answer is an error."""
    if protocol.grpc:
        with grpc.insecure_channel(f"127.0.0.1:{process.ports.grpc}") as channel:
            return protocol.predictions(channel.unary_unary(request.path)(request.body, timeout=20))
    url = process.url(request.path)
    asked = urllib.request.Request(url, request.body, request.headers)  # noqa: S310 - our own loopback address
    with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310 - the same
        return protocol.predictions(answer.read())


def load(process: Process, pool: Pool, *, connections: int, seconds: int, repeated: bool = False) -> Load:
    """Send the requests of a pool in turns, or the first over and over; raise RuntimeError when the generator fails."""
    server_before = process.cpu_seconds()
    load_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if pool.protocol.grpc:
        rate, p50, p99, requests, errors = _grpcload(process, pool, connections, seconds, repeated)
    else:
        rate, p50, p99, requests, errors = _wrk(process, pool, connections, seconds, repeated)
    server = process.cpu_seconds() - server_before
    load_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = load_after.ru_utime + load_after.ru_stime - load_before.ru_utime - load_before.ru_stime
    return Load(rate, p50, p99, errors, server / requests * 1e6, used / requests * 1e6)


_Seen = tuple[float, float, float, int, int]


def _grpcload(process: Process, pool: Pool, connections: int, seconds: int, repeated: bool) -> _Seen:
    program = process.cache / "grpcload"
    options = {"address": f"127.0.0.1:{process.ports.grpc}", "method": pool.path, "pool": str(pool.file)}
    options |= {"connections": str(connections), "duration": f"{seconds}s", "repeated": str(repeated).lower()}
    seen = json.loads(_run([str(program), *(f"-{name}={value}" for name, value in options.items())]))
    rate = (seen["requests"] - seen["errors"]) / seen["seconds"]
    return rate, seen["p50_ms"], seen["p99_ms"], seen["requests"], seen["errors"]


def _wrk(process: Process, pool: Pool, connections: int, seconds: int, repeated: bool) -> _Seen:
    options = [
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "20s",
        "-s",
        str(HERE / "post.lua"),
    ]
    text = _run(["wrk", *options, process.url(pool.path), str(pool.file), *(["repeated"] if repeated else [])])
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"^\s*(\d+) requests in ", text, re.MULTILINE)
    if not rate or not requests:
        raise RuntimeError(f"cannot read what wrk says: {text}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = int(bad[1]) if bad else 0
    errors += sum(map(int, socket_errors.groups())) if socket_errors else 0
    return float(rate[1]), _latency(text, "50%"), _latency(text, "99%"), int(requests[1]), errors


def _latency(text: str, which: str) -> float:
    found = re.search(rf"^\s+{which}\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if not found:
        raise RuntimeError(f"cannot read what wrk says: {text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}[found[2]]


def _run(command: list[str]) -> str:
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}{done.stdout}")
    return done.stdout
