"""The operator as a process of its own, and the few steps that a test takes on the API server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from modelyard_cluster.control_plane import ControlPlane
from waiting import eventually

Object = dict[str, Any]


class OperatorProcess:
    """Runs the operator against a control plane, outside of it, until the block ends."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        namespaces: str = "",
        lease_namespace: str = "default",
        runtime_image: str = "modelyard/runtime:test",
    ) -> None:
        self.log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._env = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "MODELYARD_RUNTIME_IMAGE": runtime_image,
            "MODELYARD_ROUTER_IMAGE": "modelyard/router:test",
            "MODELYARD_ENVOY_IMAGE": "modelyard/envoy:test",
            "MODELYARD_NAMESPACES": namespaces,
            "MODELYARD_PORT": str(self.port),
            "MODELYARD_LEASE_NAMESPACE": lease_namespace,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "modelyard_operator.main"]
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the process and return its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        return self._process.wait(30)

    def wait(self) -> int:
        """Return the exit code of a process that stops by itself."""
        assert self._process is not None
        return self._process.wait(30)


class Namespace:
    """Steps in one namespace of a control plane."""

    def __init__(self, control_plane: ControlPlane, name: str) -> None:
        self._kubectl = control_plane.kubectl
        self.name = name

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self._kubectl("-n", self.name, *args, input=stdin)

    def apply(self, *manifests: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str) -> Object | None:
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def pods(self, name: str) -> list[Object]:
        text = self.kubectl("get", "pods", "-l", f"modelyard.dev/name={name}", "-o", "json")
        items: list[Object] = json.loads(text)["items"]
        return sorted(items, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def patch_status(self, kind: str, name: str, status: Object) -> None:
        """Say what a kubelet would: in a control plane without nodes nobody else does."""
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)

    def condition(self, kind: str, name: str, type_: str) -> Object:
        """Return the condition once it is about the newest generation, else an empty one."""
        obj = self.get(kind, name)
        if obj is None:
            return {}
        for condition in obj.get("status", {}).get("conditions", []):
            if condition["type"] == type_ and condition["observedGeneration"] == obj["metadata"]["generation"]:
                return dict(condition)
        return {}

    def wait_for_condition(self, kind: str, name: str, type_: str, status: str, reason: str) -> Object:
        found: Object = eventually(
            lambda: self.condition(kind, name, type_),
            lambda condition: (condition.get("status"), condition.get("reason")) == (status, reason),
            f"{type_} of {kind} {name} to be {status} for {reason}",
        )
        return found


DIGEST = "sha256:" + "ab" * 32


def pod_ready(*, uri: str = "pvc://models/churn/1", version: str = "1") -> Object:
    """Return the status of a model pod that serves."""
    report = {"uri": uri, "digest": DIGEST, "format": "sklearn", "version": version, "bytes": 10}
    fetched = {"exitCode": 0, "reason": "Completed", "message": json.dumps(report)}
    return {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "initContainerStatuses": [_container("fetch", {"terminated": fetched}, ready=True)],
        "containerStatuses": [_container("runtime", {"running": {}}, ready=True)],
    }


def pod_failed(reason: str, message: str) -> Object:
    """Return the status of a model pod whose runtime gave up."""
    terminated = {"exitCode": 1, "message": json.dumps({"reason": reason, "message": message})}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    return {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [_container("runtime", waiting, last={"terminated": terminated})],
    }


def serve(ns: Namespace, name: str, **status: str) -> None:
    """Let every pod of a ModelDeployment serve."""
    pods = eventually(lambda: ns.pods(name), bool, f"pods of {name}")
    for pod in pods:
        ns.patch_status("pod", pod["metadata"]["name"], pod_ready(**status))


def _container(name: str, state: Object, *, ready: bool = False, last: Object | None = None) -> Object:
    return {
        "name": name,
        "state": state,
        "lastState": last or {},
        "ready": ready,
        "restartCount": 0,
        "image": "x",
        "imageID": "x",
    }
