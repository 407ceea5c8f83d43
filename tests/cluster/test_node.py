"""The test node runs pods as a cluster does, and leaves nothing behind. As root only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from modelyard_cluster import BASE_IMAGE, Cluster, base_image, build_image, down, wait_until
from modelyard_cluster.cluster import running
from modelyard_cluster.fixtures import node_cluster, node_namespace  # noqa: F401  (fixtures)
from modelyard_cluster.processes import is_running, read_recorded

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

SERVE = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8000, bind='0.0.0.0')"
WEB = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pages"}, "data": {"page": "first"}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "web",
                        "image": BASE_IMAGE,
                        "imagePullPolicy": "Never",
                        "workingDir": "/pages",
                        "command": ["python", "-u", "-c", SERVE],
                        "readinessProbe": {"httpGet": {"port": 8000, "path": "/page"}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "pages", "mountPath": "/pages"}],
                    }
                ],
                "volumes": [{"name": "pages", "configMap": {"name": "pages"}}],
            },
        },
    ],
}


def client(code: str) -> dict[str, Any]:
    """A pod that runs some Python to its end."""
    container = {
        "name": "client",
        "image": BASE_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", code],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def run_client(cluster: Cluster, namespace: str, code: str) -> str:
    cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(client(code)))

    def phase() -> str:
        return cluster.kubectl("-n", namespace, "get", "pod", "client", "-o", "jsonpath={.status.phase}")

    wait_until(lambda: phase() in {"Succeeded", "Failed"}, what="the client to end", timeout=60, interval=0.3)
    output = cluster.kubectl("-n", namespace, "logs", "client")
    assert phase() == "Succeeded", output
    return output


def fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def cluster(node_cluster: Cluster) -> Cluster:  # noqa: F811
    node_cluster.import_image(base_image())
    return node_cluster


@pytest.fixture
def web(cluster: Cluster, node_namespace: str) -> str:  # noqa: F811
    """A namespace with a pod that serves the page of a ConfigMap."""
    cluster.kubectl("-n", node_namespace, "apply", "-f", "-", input=json.dumps(WEB))
    cluster.kubectl("-n", node_namespace, "wait", "--for=condition=Ready", "--timeout=60s", "pod/web")
    return node_namespace


def test_a_pod_reaches_another_by_its_services_name(cluster: Cluster, web: str) -> None:
    """CoreDNS answers, kube-proxy routes; short names work as well as long ones."""
    code = f"""
import urllib.request
for host in ("web", "web.{web}", "web.{web}.svc.cluster.local"):
    print(urllib.request.urlopen(f"http://{{host}}/page", timeout=5).read().decode())
"""

    assert run_client(cluster, web, code).split() == ["first", "first", "first"]


def test_the_machine_reaches_pods_and_services(cluster: Cluster, web: str) -> None:
    """Tests on the machine may call a pod's address and a ClusterIP."""
    pod = cluster.kubectl("-n", web, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
    service = cluster.kubectl("-n", web, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")

    assert fetch(f"http://{pod}:8000/page") == "first"
    wait_until(lambda: fetch(f"http://{service}/page") == "first", what="the Service", timeout=10)


def test_pods_reach_the_api_server_and_the_machine_but_no_other_name(cluster: Cluster, node_namespace: str) -> None:  # noqa: F811
    """What an in-cluster client does works: token, authority and name of the Service `kubernetes`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the machine")

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = HTTPServer((cluster.machine_address, 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    code = f"""
import json, os, pathlib, socket, ssl, urllib.request
account = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
context = ssl.create_default_context(cafile=account / "ca.crt")
for host in ("kubernetes.default.svc", os.environ["KUBERNETES_SERVICE_HOST"]):
    request = urllib.request.Request(f"https://{{host}}/version")
    request.add_header("Authorization", "Bearer " + (account / "token").read_text())
    print(json.load(urllib.request.urlopen(request, context=context, timeout=5))["gitVersion"])
print(urllib.request.urlopen("http://{cluster.machine_address}:{server.server_port}", timeout=5).read().decode())
try:
    socket.getaddrinfo("example.invalid", 80)
except socket.gaierror as error:
    print(error)
"""

    try:
        lines = run_client(cluster, node_namespace, code).splitlines()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    version = json.loads(cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert lines[:3] == [version, version, "the machine"]
    assert "not known" in lines[3]


def test_logs_and_exec(cluster: Cluster, web: str) -> None:
    """The API server reaches the kubelet, which trusts it."""
    assert cluster.kubectl("-n", web, "exec", "web", "--", "cat", "/pages/page") == "first"
    wait_until(lambda: "GET /page" in cluster.kubectl("-n", web, "logs", "web"), what="the log", timeout=10)


def test_a_config_map_reaches_the_file_at_once_if_the_pod_is_nudged(cluster: Cluster, web: str) -> None:
    """An annotation makes the kubelet look at the pod now, and not at its next round."""
    cluster.kubectl("-n", web, "patch", "configmap", "pages", "-p", '{"data": {"page": "second"}}')
    cluster.kubectl("-n", web, "annotate", "pod", "web", "nudge=1")

    wait_until(
        lambda: cluster.kubectl("-n", web, "exec", "web", "--", "cat", "/pages/page") == "second",
        what="the new page", timeout=10,
    )  # fmt: skip


def test_a_restricted_pod_with_limits_and_a_claim_runs(cluster: Cluster, node_namespace: str, tmp_path: Path) -> None:  # noqa: F811
    """What restricted Pod Security asks for, limits, a volume in memory and a bound claim all work."""
    cluster.kubectl("label", "namespace", node_namespace, "pod-security.kubernetes.io/enforce=restricted")
    (tmp_path / "model").write_text("weights")
    tmp_path.chmod(0o755)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": node_namespace},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": node_namespace,
            "hostPath": {"path": str(tmp_path)},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": node_namespace,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    pod = client("print(open('/models/model').read(), open('/memory/note', 'w').write('x'))")
    pod["spec"] |= {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532},
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }
    pod["spec"]["securityContext"]["seccompProfile"] = {"type": "RuntimeDefault"}
    pod["spec"]["containers"][0] |= {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": True},
            {"name": "memory", "mountPath": "/memory"},
        ],
    }

    for manifest in (volume, claim, pod):
        cluster.kubectl("-n", node_namespace, "apply", "-f", "-", input=json.dumps(manifest))
    cluster.kubectl(
        "-n", node_namespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/client"
    )

    assert cluster.kubectl("-n", node_namespace, "logs", "client").split() == ["weights", "1"]
    cluster.kubectl("delete", "persistentvolume", node_namespace, "--wait=false")


def test_an_image_is_built_with_pip_and_keeps_nothing_of_the_machine(
    cluster: Cluster,
    node_namespace: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """RUN steps reach pip's index as the machine does; its configuration stays outside the image."""
    recipe = tmp_path / "Containerfile"
    recipe.write_text(
        "ARG BASE_IMAGE=docker.io/library/python:3.11-slim\nFROM ${BASE_IMAGE}\n"
        "RUN pip install --no-cache-dir iniconfig\nUSER 65532:65532\n"
    )
    code = "import iniconfig, os; print(iniconfig.__name__, os.getuid(), os.path.getsize('/etc/pip.conf'))"

    archive = build_image(recipe, "localhost/built:1", tmp_path, build_args={"BASE_IMAGE": BASE_IMAGE})
    cluster.import_image(archive)

    pod = client(code + " if os.path.exists('/etc/pip.conf') else print(iniconfig.__name__, os.getuid(), 0)")
    pod["spec"]["containers"][0]["image"] = "localhost/built:1"
    cluster.kubectl("-n", node_namespace, "apply", "-f", "-", input=json.dumps(pod))
    cluster.kubectl(
        "-n", node_namespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/client"
    )
    assert cluster.kubectl("-n", node_namespace, "logs", "client").split() == ["iniconfig", "65532", "0"]


STARTER = """
import pathlib, sys, time
from modelyard_cluster import Cluster
cluster = Cluster(pathlib.Path(sys.argv[1]), tied=sys.argv[2] == "tied")
cluster.start()
cluster.kubectl("run", "held", "--image=localhost/modelyard-pause:1", "--image-pull-policy=Never")
cluster.kubectl("wait", "--for=condition=Ready", "pod/held", "--timeout=60s")
print(cluster.control_plane.url, flush=True)
time.sleep(600)
"""


def traces(state_dir: Path) -> list[str]:
    """What a node leaves on the machine: mounts, interfaces, control groups, processes, firewall tables."""
    links = [
        line
        for line in subprocess.check_output(["ip", "-o", "link"], text=True).splitlines()
        if "veth" in line or "modelyard" in line
    ]
    return [
        *(line for line in Path("/proc/mounts").read_text().splitlines() if str(state_dir) in line),
        *links,
        *(str(group) for group in Path("/sys/fs/cgroup").glob("*/*") if group.name.startswith(("modelyard", "k8s.io"))),
        *subprocess.check_output(["nft", "list", "tables"], text=True).splitlines(),
        *(recorded.name for recorded in read_recorded(state_dir) if is_running(recorded)),
    ]


@pytest.mark.parametrize("tied", ["tied", "untied"])
def test_nothing_is_left_after_a_starter_is_killed(cluster: Cluster, tmp_path: Path, tied: str) -> None:
    """A killed starter takes its node along, or leaves it for `down`; neither leaves a trace or disturbs another."""
    before = traces(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "state"), tied],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline().startswith("https://")
        assert "kubelet" in running(tmp_path / "state")
        starter.send_signal(signal.SIGKILL)

    if tied == "tied":
        wait_until(lambda: running(tmp_path / "state") == [], what="all to end", timeout=10)
        down(tmp_path / "state")
    else:
        assert "kubelet" in running(tmp_path / "state")
        assert "kubelet" in down(tmp_path / "state")

    # What an earlier run left may go with it: a node removes empty control groups under its own number.
    assert [trace for trace in traces(tmp_path) if trace not in before] == []
    assert not (tmp_path / "state").exists()
    assert "modelyard" in cluster.kubectl("get", "nodes")
