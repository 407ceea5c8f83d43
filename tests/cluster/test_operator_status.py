"""Status says what is there now, and children come back whatever was done to them; the test plays the kubelet."""

import json
from collections.abc import Iterator

import pytest
from manifest_cases import model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import DIGEST, Namespace, Object, OperatorProcess, pod_ready, serve
from waiting import eventually


@pytest.fixture(scope="module")
def operator(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with OperatorProcess(crds.kubeconfig, tmp_path_factory.mktemp("operator") / "log") as process:
        yield process


@pytest.fixture
def ns(crds: ControlPlane, namespace: str, operator: OperatorProcess) -> Namespace:
    return Namespace(crds, namespace)


def _ready(ns: Namespace, name: str = "churn", **spec: object) -> None:
    ns.apply(model_deployment(name, **{"replicas": 1, **spec}))
    serve(ns, name)
    ns.wait_for_condition("mdep", name, "Ready", "True", "Ready")


def test_without_replicas_it_is_scaled_to_zero_and_neither_available_nor_ready(ns: Namespace) -> None:
    _ready(ns)

    ns.kubectl("scale", "mdep", "churn", "--replicas=0")

    ns.wait_for_condition("mdep", "churn", "Ready", "False", "ScaledToZero")
    ns.wait_for_condition("mdep", "churn", "Available", "False", "ScaledToZero")
    ns.wait_for_condition("mdep", "churn", "UpToDate", "True", "RolledOut")


def test_a_refused_spec_tells_of_the_pods_that_there_are(ns: Namespace) -> None:
    ns.kubectl("create", "service", "clusterip", "churn-pods", "--tcp=80:80")
    ns.apply(model_deployment(replicas=1))
    ns.wait_for_condition("mdep", "churn", "Available", "False", "NameConflict")
    ns.kubectl("delete", "service", "churn-pods")
    ns.kubectl("annotate", "mdep", "churn", "look=again")
    serve(ns, "churn")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    ns.kubectl(
        "patch", "service", "churn-pods", "--type=json", "-p", '[{"op":"remove","path":"/metadata/ownerReferences"}]'
    )
    ns.wait_for_condition("mdep", "churn", "UpToDate", "False", "NameConflict")

    condition = ns.wait_for_condition("mdep", "churn", "Available", "True", "Serving")
    assert condition["message"] == "1 pods answer"
    for pod in ns.pods("churn"):
        ns.patch_status("pod", pod["metadata"]["name"], {"conditions": [{"type": "Ready", "status": "False"}]})

    ns.wait_for_condition("mdep", "churn", "Available", "False", "Starting")


def test_pods_that_a_quota_refuses_are_its_reason(ns: Namespace) -> None:
    ns.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}}
    )
    eventually(lambda: (ns.get("quota", "few") or {}).get("status", {}).get("hard"), bool, "the quota to count")

    ns.apply(model_deployment(replicas=1))

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "QuotaExceeded")
    assert "exceeded quota: few" in condition["message"]


def test_pods_that_a_limit_range_refuses_are_its_reason(ns: Namespace) -> None:
    limits = {"limits": [{"type": "Container", "max": {"memory": "16Mi"}}]}
    ns.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits})

    ns.apply(model_deployment(replicas=1, resources={"limits": {"memory": "1Gi"}}))

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "QuotaExceeded")
    assert "maximum memory usage per Container is 16Mi" in condition["message"]


def test_an_evicted_pod_is_history(ns: Namespace) -> None:
    _ready(ns)
    [pod] = ns.pods("churn")
    killed: Object = {"name": "runtime", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}, "lastState": {}}
    killed |= {"ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    evicted = {"phase": "Failed", "reason": "Evicted", "conditions": [{"type": "Ready", "status": "False"}]}
    ns.patch_status("pod", pod["metadata"]["name"], {**evicted, "containerStatuses": [killed]})

    eventually(lambda: len(ns.pods("churn")), lambda count: count == 2, "the pod in its place")

    ns.wait_for_condition("mdep", "churn", "Ready", "False", "RollingOut")
    assert "137" not in ns.condition("mdep", "churn", "UpToDate")["message"]


def test_a_paused_deployment_says_how_it_goes_on(ns: Namespace) -> None:
    _ready(ns)
    ns.kubectl("rollout", "pause", "deployment/churn")

    ns.apply(model_deployment(replicas=1, model={"uri": "pvc://models/churn/2"}))

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "Paused")
    assert "kubectl rollout resume deployment/churn" in condition["message"]


def test_pods_that_answer_from_two_artifacts_are_not_up_to_date(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=2))
    first, second = eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 2, "two pods")
    ns.patch_status("pod", first["metadata"]["name"], pod_ready())
    other = json.loads(json.dumps(pod_ready()).replace(DIGEST, "sha256:" + "cd" * 32))
    ns.patch_status("pod", second["metadata"]["name"], other)

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "ArtifactChanged")
    assert DIGEST in condition["message"]


_CONTAINER = "/spec/template/spec/containers/0"
_EDITS: dict[str, tuple[str, str, list[Object]]] = {
    "a Service's port": (
        "service",
        "churn",
        [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}],
    ),
    "a containerPort": (
        "deployment",
        "churn",
        [{"op": "replace", "path": f"{_CONTAINER}/ports/0/containerPort", "value": 8081}],
    ),
    "httpGet to tcpSocket": (
        "deployment",
        "churn",
        [{"op": "replace", "path": f"{_CONTAINER}/livenessProbe", "value": {"tcpSocket": {"port": "http"}}}],
    ),
    "emptyDir to hostPath": (
        "deployment",
        "churn",
        [
            {
                "op": "replace",
                "path": "/spec/template/spec/volumes/0",
                "value": {"name": "model", "hostPath": {"path": "/x"}},
            }
        ],
    ),
    "a variable's value to valueFrom": (
        "deployment",
        "churn",
        [
            {
                "op": "replace",
                "path": f"{_CONTAINER}/env/0",
                "value": {
                    "name": "MODELYARD_MODEL_NAME",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                },
            }
        ],
    ),
    "a variable's value": (
        "deployment",
        "churn",
        [{"op": "replace", "path": f"{_CONTAINER}/env/0/value", "value": "x"}],
    ),
    "the image": ("deployment", "churn", [{"op": "replace", "path": f"{_CONTAINER}/image", "value": "x"}]),
    "the replicas": ("deployment", "churn", [{"op": "replace", "path": "/spec/replicas", "value": 5}]),
    "our label": ("service", "churn", [{"op": "remove", "path": "/metadata/labels/modelyard.dev~1component"}]),
}


@pytest.mark.parametrize("edit", _EDITS)
def test_an_edited_child_comes_back_as_it_was(ns: Namespace, edit: str) -> None:
    kind, name, patch = _EDITS[edit]
    _ready(ns)
    before = ns.get(kind, name) or {}

    ns.kubectl("patch", kind, name, "--type=json", "-p", json.dumps(patch))

    eventually(lambda: (ns.get(kind, name) or {})["spec"], lambda spec: spec == before["spec"], "the spec as it was")
    eventually(
        lambda: (ns.get(kind, name) or {})["metadata"]["labels"],
        lambda labels: labels == before["metadata"]["labels"],
        "the labels as they were",
    )
    assert (ns.get(kind, name) or {})["metadata"]["uid"] == before["metadata"]["uid"]
    ns.apply(model_deployment(replicas=1, model={"uri": "pvc://models/churn/2"}))
    eventually(
        lambda: json.dumps(ns.get("deployment", "churn")),
        lambda text: "pvc://models/churn/2" in text,
        "the next URI to arrive",
    )
