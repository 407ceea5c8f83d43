"""Our strategic merge patch beside kubectl's own, and our merge keys beside the API server's."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from modelyard_cluster.binaries import Binaries
from modelyard_cluster.control_plane import ControlPlane
from modelyard_cluster.errors import ClusterError
from modelyard_cluster.merge_keys import pod_template_merge_keys
from modelyard_cluster.run import run
from modelyard_operator.manifests.merge_keys import POD_TEMPLATE_MERGE_KEYS
from modelyard_operator.manifests.strategic_merge import strategic_merge

Object = dict[str, Any]

TEMPLATE: Object = {
    "metadata": {"labels": {"app": "churn"}, "annotations": {"a": "1", "b": "2"}},
    "spec": {
        "initContainers": [{"name": "fetch", "image": "i"}],
        "containers": [
            {
                "name": "runtime",
                "image": "i",
                "command": ["python", "-m", "x"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
                "volumeMounts": [{"name": "model", "mountPath": "/mnt/model"}, {"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "model", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}],
        "securityContext": {"runAsUser": 65532, "fsGroup": 65532},
    },
}


def _runtime(**fields: Any) -> Object:
    return {"spec": {"containers": [{"name": "runtime", **fields}]}}


PATCHES: dict[str, Object] = {
    "labels": {"metadata": {"labels": {"team": "ml"}, "annotations": {"b": None, "c": "3"}}},
    "image": _runtime(image="other"),
    "sidecar": {"spec": {"containers": [{"name": "proxy", "image": "p", "ports": [{"containerPort": 1}]}]}},
    "sidecar-after-ours": {"spec": {"containers": [{"name": "runtime"}, {"name": "proxy", "image": "p"}]}},
    "sidecar-with-one-port-twice": {
        "spec": {
            "containers": [
                {
                    "name": "dns",
                    "image": "p",
                    "ports": [
                        {"name": "tcp", "containerPort": 53, "protocol": "TCP"},
                        {"name": "udp", "containerPort": 53, "protocol": "UDP"},
                    ],
                }
            ]
        }
    },
    "environment": _runtime(env=[{"name": "B", "value": "22"}, {"name": "D", "value": "4"}]),
    "environment-in-another-order": _runtime(env=[{"name": "C", "value": "33"}, {"name": "A", "value": "11"}]),
    "variable-taken-away": _runtime(env=[{"name": "B", "$patch": "delete"}]),
    "environment-replaced": _runtime(env=[{"$patch": "replace"}, {"name": "D", "value": "4"}]),
    "command-replaced": _runtime(command=["serve"]),
    "command-taken-away": _runtime(command=None),
    "gpu": _runtime(resources={"limits": {"nvidia.com/gpu": "1"}}),
    "resources-replaced": _runtime(resources={"$patch": "replace", "limits": {"cpu": "2"}}),
    "port-added": _runtime(ports=[{"name": "debug", "containerPort": 9999}]),
    "mount-added": _runtime(volumeMounts=[{"name": "data", "mountPath": "/data"}]),
    "volume-added": {"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}},
    "volume-of-another-source": {
        "spec": {
            "volumes": [
                {"name": "tmp", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}},
            ]
        }
    },
    "volume-size": {"spec": {"volumes": [{"name": "model", "emptyDir": {"medium": "Memory"}}]}},
    "tolerations-replaced": {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
    "node-selector-added": {"spec": {"nodeSelector": {"pool": "gpu"}}},
    "spread": {"spec": {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}, {"topologyKey": "host"}]}},
    "security-context": {"spec": {"securityContext": {"runAsUser": None, "fsGroup": 1}}},
    "security-context-taken-away": {"spec": {"securityContext": {"$patch": "delete"}}},
    "init-container-before": {"spec": {"initContainers": [{"name": "login", "image": "l"}]}},
    "init-container-after": {"spec": {"initContainers": [{"name": "fetch"}, {"name": "warm", "image": "l"}]}},
}


@pytest.fixture(scope="session")
def kubectl() -> Path:
    try:
        return Binaries().path("kubectl")
    except ClusterError as error:
        pytest.skip(f"no kubectl: {error}")


def _patched_by_kubectl(kubectl: Path, patch: Object, folder: Path) -> Object:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x"},
        "spec": {"template": TEMPLATE},
    }
    file = folder / "deployment.json"
    file.write_text(json.dumps(deployment))
    body = json.dumps({"spec": {"template": patch}})
    text = run(kubectl, "patch", "--local", "--type=strategic", "-f", file, "-p", body, "-o", "json")
    result: Object = json.loads(text)["spec"]["template"]
    return result


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(child) for name, child in value.items() if child is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_gives_what_kubectl_gives(name: str, kubectl: Path, tmp_path: Path) -> None:
    expected = _patched_by_kubectl(kubectl, PATCHES[name], tmp_path)

    merged = strategic_merge(TEMPLATE, PATCHES[name], POD_TEMPLATE_MERGE_KEYS)

    # Kubernetes takes a null in something new for absent, and an object that was emptied stays as one.
    assert merged == _without_nulls(expected)


@pytest.mark.parametrize("seed", range(12))
def test_patches_of_every_sort_at_once_give_what_kubectl_gives(seed: int, kubectl: Path, tmp_path: Path) -> None:
    choice = random.Random(seed)
    names = "ABCDE"
    env: list[Object] = [
        choice.choice([{"name": name, "value": str(seed)}, {"name": name, "$patch": "delete"}])
        for name in choice.sample(names, choice.randint(0, 4))
    ]
    containers: list[Object] = [{"name": "runtime", "env": env}, {"name": "proxy", "image": "p"}]
    choice.shuffle(containers)
    volumes = [{"name": name, "emptyDir": {}} for name in choice.sample(["model", "tmp", "x", "y"], 3)]
    patch = {"spec": {"containers": containers, "volumes": volumes}}

    merged = strategic_merge(TEMPLATE, patch, POD_TEMPLATE_MERGE_KEYS)

    assert merged == _without_nulls(_patched_by_kubectl(kubectl, patch, tmp_path))


def test_the_merge_keys_are_those_of_the_api_server(control_plane: ControlPlane) -> None:
    document = control_plane.api.request("GET", "/openapi/v2")

    assert dict(POD_TEMPLATE_MERGE_KEYS) == pod_template_merge_keys(document)
