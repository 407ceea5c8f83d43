"""A real control plane whose nodes are simulated: KWOK makes pods Ready that no machine runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from modelyard_cluster.binaries import Binaries
from modelyard_cluster.control_plane import ControlPlane
from modelyard_cluster.processes import Processes

__all__ = ["AuditLog", "Operator", "Request", "simulation", "wait_for"]

REPOSITORY = Path(__file__).parents[2]
_NODES = 20


@contextlib.contextmanager
def simulation(folder: Path) -> Iterator[ControlPlane]:
    """Start a control plane with Modelyard's kinds, a scheduler, and nodes that take 1,000 pods each."""
    binaries = Binaries()
    programs = binaries.ensure(["kube-scheduler", "kwok"])
    processes = Processes(folder, tied=True)
    with ControlPlane(folder, audit=True, processes=processes, binaries=binaries) as control_plane:
        control_plane.kubectl("apply", "-f", str(REPOSITORY / "crds"))
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        scheduler = control_plane.program_kubeconfig("system:kube-scheduler")
        processes.start(
            "kube-scheduler",
            [
                *(programs["kube-scheduler"], "--kubeconfig", scheduler, "--leader-elect=false", "--secure-port", "0"),
                *("--kube-api-qps", "500", "--kube-api-burst", "1000"),
            ],
        )
        stages = Path(__file__).with_name("stages.yaml")
        processes.start(
            "kwok",
            [
                *(programs["kwok"], "--kubeconfig", control_plane.kubeconfig, "--config", stages, "--manage-all-nodes"),
                *("--node-lease-duration-seconds", "40"),
            ],
        )
        for number in range(_NODES):
            control_plane.api.request("POST", "/api/v1/nodes", {"metadata": {"name": f"node-{number}"}})
            capacity = {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}
            control_plane.api.request(
                "PATCH",
                f"/api/v1/nodes/node-{number}/status",
                {"status": {"allocatable": capacity, "capacity": capacity}},
            )
        yield control_plane


@dataclass(frozen=True)
class Request:
    """A request of one user, as the API server's audit log has it."""

    verb: str
    resource: str
    code: int
    time: float
    """Seconds since the epoch at which it was answered."""

    @property
    def writes(self) -> bool:
        """Whether it is one that may change something, leases apart."""
        return self.verb in ("create", "update", "patch", "delete") and self.resource != "leases"


class AuditLog:
    """Reads on in the audit log of a control plane: requests of one user agent that have been answered."""

    def __init__(self, path: Path, agent: str) -> None:
        self._path, self._agent, self._position = path, agent, path.stat().st_size
        self.requests: list[Request] = []

    def read(self) -> list[Request]:
        """Return all requests since this object was made."""
        with self._path.open() as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith("\n"):
                    break
                self._position += len(line.encode())
                event = json.loads(line)
                # A watch is counted when it begins, any other request when it is answered.
                stage = "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"
                if event["stage"] == stage and event.get("userAgent", "").startswith(self._agent):
                    resource = event.get("objectRef", {}).get("resource", "")
                    if event.get("objectRef", {}).get("subresource"):
                        resource += f"/{event['objectRef']['subresource']}"
                    at = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
                    self.requests.append(
                        Request(event["verb"], resource, event.get("responseStatus", {}).get("code", 0), at)
                    )
        return self.requests

    def wait_until_quiet(self, seconds: float, limit: float = 300.0) -> list[Request]:
        """Return all requests once there has been none but of leases and watches for some seconds."""
        end = time.time() + limit
        while time.time() < end:
            requests = self.read()
            last = max(
                (each.time for each in requests if each.verb != "watch" and each.resource != "leases"), default=0
            )
            if requests and time.time() - last > seconds:
                return requests
            time.sleep(0.5)
        raise TimeoutError(f"the operator was not quiet within {limit:g} s")


class Operator:
    """The operator as a process of its own, on a control plane."""

    def __init__(self, control_plane: ControlPlane, log: Path, port: int) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY}/operator:{REPOSITORY}/runtime",
            "KUBECONFIG": str(control_plane.kubeconfig),
            "MODELYARD_RUNTIME_IMAGE": "modelyard/runtime:bench",
            "MODELYARD_ROUTER_IMAGE": "modelyard/router:bench",
            "MODELYARD_ENVOY_IMAGE": "modelyard/envoy:bench",
            "MODELYARD_PORT": str(port),
        }
        with log.open("ab") as output:
            command = [sys.executable, "-m", "modelyard_operator.main"]
            self._popen = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        self._process = psutil.Process(self._popen.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def peak_mib(self) -> float:
        """Return the most memory that it has had, in MiB."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def memory_mib(self) -> float:
        """Return the memory that it has, in MiB."""
        return float(self._process.memory_info().rss) / 2**20

    def stop(self) -> None:
        """End it."""
        self._popen.terminate()
        self._popen.wait(30)


def wait_for(look: Callable[[], Any], what: str, seconds: float = 600.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} took more than {seconds:g} s")
        time.sleep(1.0)
