"""The chart installed from our own images on a real node, once for all tests here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from e2e.steps import Shop
from modelyard_cluster import BASE_IMAGE, Cluster, base_image, build_image
from modelyard_cluster.fixtures import node_cluster, node_namespace

__all__ = ["installed", "node_cluster", "node_namespace", "shop", "trained"]

REPOSITORY = Path(__file__).parents[2]
IMAGES = {
    "operator": "operator/Dockerfile",
    "runtime": "runtime/Dockerfile",
    "router": "runtime/router.Dockerfile",
}


@pytest.fixture(scope="session")
def installed(node_cluster: Cluster) -> Cluster:
    """A cluster in which `helm install` has been run."""
    node_cluster.import_image(base_image())  # for the clients
    for name, recipe in IMAGES.items():
        tag = f"localhost/modelyard/{name}:e2e"
        build_args = {"BASE_IMAGE": BASE_IMAGE}
        node_cluster.import_image(build_image(REPOSITORY / recipe, tag, REPOSITORY, build_args=build_args))
    node_cluster.control_plane.helm(
        *("install", "modelyard", str(REPOSITORY / "helm/modelyard")),
        *("--namespace", "modelyard-system", "--create-namespace", "--wait", "--timeout", "3m"),
        *("--set", "image.tag=e2e", "--set", "envoy.image=", "--set", "logLevel=DEBUG"),
    )
    return node_cluster


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples/train.py fills; pods may read it."""
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([sys.executable, str(REPOSITORY / "examples/train.py"), str(folder)], check=True)
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and str(path).startswith("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    return folder


@pytest.fixture
def shop(installed: Cluster, node_namespace: str, trained: Path) -> Iterator[Shop]:
    """A namespace that enforces restricted Pod Security and holds the claim `models`."""
    shop = Shop(installed, node_namespace)
    installed.kubectl("label", "namespace", node_namespace, "pod-security.kubernetes.io/enforce=restricted")
    spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": node_namespace}
    size = {"storage": "1Gi"}
    path = str(trained / "models")
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": node_namespace},
        "spec": {**spec, "capacity": size, "hostPath": {"path": path}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {**spec, "resources": {"requests": size}},
    }
    shop.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([volume, claim]))
    yield shop
    installed.kubectl("delete", "persistentvolume", node_namespace, "--wait=false")
