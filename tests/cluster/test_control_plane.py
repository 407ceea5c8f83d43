"""The test control plane does what a cluster's does, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from modelyard_cluster import Api, ApiError, CommandFailed, ControlPlane, wait_until
from modelyard_cluster.kubeconfig import write_kubeconfig
from modelyard_cluster.processes import is_running, read_recorded

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "localhost/none:1"}]},
        },
    },
}


def count(control_plane: ControlPlane, kind: str, namespace: str) -> int:
    return len(json.loads(control_plane.kubectl("-n", namespace, "get", kind, "-o", "json"))["items"])


def test_a_deployment_becomes_pods_and_takes_them_along(control_plane: ControlPlane, namespace: str) -> None:
    """The controller manager makes ReplicaSet and Pods, and its garbage collector deletes them with their owner."""
    control_plane.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(DEPLOYMENT))

    wait_until(lambda: count(control_plane, "pods", namespace) == 2, what="two pods", timeout=30)
    assert count(control_plane, "replicasets", namespace) == 1

    control_plane.kubectl("-n", namespace, "delete", "deployment", "web", "--wait=false")

    wait_until(lambda: count(control_plane, "replicasets,pods", namespace) == 0, what="no children", timeout=60)


def test_a_service_account_may_do_what_its_role_says_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    """RBAC is enforced for the kubeconfig of a service account."""
    control_plane.kubectl("-n", namespace, "create", "serviceaccount", "reader")
    control_plane.kubectl("-n", namespace, "create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    control_plane.kubectl(
        "-n", namespace, "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader"
    )
    kubeconfig = str(control_plane.service_account_kubeconfig("reader", namespace=namespace))

    assert "kube-root-ca.crt" in control_plane.kubectl("--kubeconfig", kubeconfig, "get", "configmaps")
    with pytest.raises(CommandFailed) as refused:
        control_plane.kubectl("--kubeconfig", kubeconfig, "create", "configmap", "mine")

    assert "Forbidden" in refused.value.stderr or "forbidden" in refused.value.stderr


def test_validation_is_the_api_servers(control_plane: ControlPlane, namespace: str) -> None:
    """kubectl's error carries the API server's words."""
    wrong = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": -1}}  # type: ignore[dict-item]

    with pytest.raises(CommandFailed, match=r"spec\.replicas: Invalid value: -1"):
        control_plane.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(wrong))


def test_strangers_are_turned_away(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A wrong token is no way in, and the administrator's kubeconfig is for its owner alone."""
    with pytest.raises(ApiError) as refused:
        Api(control_plane.url, "wrong", control_plane.ca_file).request("GET", "/api/v1/nodes")

    assert refused.value.status == 401
    assert control_plane.kubeconfig.stat().st_mode & 0o077 == 0
    path = write_kubeconfig(tmp_path / "k", server="https://x", ca_file=control_plane.ca_file, user="u", token="t")
    assert path.stat().st_mode & 0o077 == 0


STARTER = """
import pathlib, sys, time
from modelyard_cluster import ControlPlane
control_plane = ControlPlane(pathlib.Path(sys.argv[1]))
control_plane.start()
print("ready", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_starter_that_is_killed(control_plane: ControlPlane, tmp_path: Path) -> None:
    """etcd and its friends end with the test run even when that cannot clean up."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"ready\n"
        programs = read_recorded(tmp_path)
        assert sorted(program.name for program in programs) == ["etcd", "kube-apiserver", "kube-controller-manager"]
        assert all(is_running(program) for program in programs)

        starter.send_signal(signal.SIGKILL)

    wait_until(lambda: not any(is_running(program) for program in programs), what="all to end", timeout=10)
