"""The operator against a real API server and controller-manager; the test plays the kubelet."""

import json
from collections.abc import Iterator
from functools import partial

import pytest
from manifest_cases import CONTAINER, CONTAINER_ALONE, abtest, model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import DIGEST, Namespace, OperatorProcess, pod_failed, serve
from waiting import eventually


@pytest.fixture(scope="module")
def operator(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with OperatorProcess(crds.kubeconfig, tmp_path_factory.mktemp("operator") / "log") as process:
        yield process


@pytest.fixture
def ns(crds: ControlPlane, namespace: str, operator: OperatorProcess) -> Namespace:
    return Namespace(crds, namespace)


def test_a_model_deployment_becomes_a_deployment_and_two_services(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=2))

    deployment = eventually(lambda: ns.get("deployment", "churn"), bool, "the Deployment")
    ns.wait_for_condition("mdep", "churn", "Ready", "False", "RollingOut")
    service, headless = ns.get("service", "churn"), ns.get("service", "churn-pods")
    owner = ns.get("mdep", "churn")
    assert service is not None
    assert headless is not None
    assert owner is not None
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert headless["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert [ref["uid"] for ref in service["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]


def test_ready_pods_make_it_ready_and_tell_the_version(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=1))

    serve(ns, "churn", version="4")

    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    status = (ns.get("mdep", "churn") or {})["status"]
    assert status["model"] == {
        "uri": "pvc://models/churn/1",
        "name": "churn",
        "version": "4",
        "format": "sklearn",
        "digest": DIGEST,
    }
    assert status["url"] == f"http://churn.{ns.name}.svc"
    columns = ns.kubectl("get", "mdep").splitlines()
    assert columns[0].split() == ["NAME", "URL", "VERSION", "READY", "REASON", "AGE"]
    assert columns[1].split()[:5] == ["churn", status["url"], "4", "True", "Ready"]


def test_a_bad_new_version_is_told_while_the_old_one_serves(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=1))
    serve(ns, "churn")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    [old] = ns.pods("churn")

    ns.apply(model_deployment(replicas=1, model={"uri": "pvc://models/churn/2"}))
    new = eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 2, "the pod of the new version")
    [name] = [pod["metadata"]["name"] for pod in new if pod["metadata"]["uid"] != old["metadata"]["uid"]]
    ns.patch_status("pod", name, pod_failed("LoadFailed", "weights has 3 numbers, features has 4 names"))

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "LoadFailed")
    assert "weights has 3 numbers" in condition["message"]
    assert ns.condition("mdep", "churn", "Available")["status"] == "True"
    assert (ns.get("mdep", "churn") or {})["status"]["model"]["uri"] == "pvc://models/churn/1"
    assert old["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in ns.pods("churn")]


def test_a_failed_rollout_goes_back_to_the_spec_that_was_ready_and_stays_there(ns: Namespace) -> None:
    rollout = {"onFailure": "Rollback"}
    ns.apply(model_deployment(replicas=1, rollout=rollout))
    serve(ns, "churn")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    [old] = ns.pods("churn")
    eventually(lambda: ns.kubectl("get", "controllerrevisions", "-o", "name"), what="the revision to be kept")

    bad = model_deployment(replicas=1, rollout=rollout, model={"uri": "pvc://models/churn/2"})
    ns.apply(bad)
    new = eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 2, "the pod of the new version")
    [name] = [pod["metadata"]["name"] for pod in new if pod["metadata"]["uid"] != old["metadata"]["uid"]]
    ns.patch_status("pod", name, pod_failed("LoadFailed", "weights has 3 numbers, features has 4 names"))

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "RolledBack")
    assert "failed with LoadFailed: weights has 3 numbers" in condition["message"]
    eventually(
        lambda: [pod["metadata"]["uid"] for pod in ns.pods("churn") if "deletionTimestamp" not in pod["metadata"]],
        lambda uids: uids == [old["metadata"]["uid"]],
        "the failed pod to go, and the old one to stay",
    )
    assert ns.condition("mdep", "churn", "Available")["status"] == "True"
    assert (ns.get("mdep", "churn") or {})["spec"]["model"]["uri"] == "pvc://models/churn/2"
    generation = (ns.get("deployment", "churn") or {})["metadata"]["generation"]

    ns.apply(bad)
    ns.kubectl("delete", "service", "churn-pods")
    eventually(lambda: ns.get("service", "churn-pods"), bool, "one more reconcile")

    assert ns.condition("mdep", "churn", "Ready")["message"] == condition["message"]
    assert (ns.get("deployment", "churn") or {})["metadata"]["generation"] == generation

    ns.apply(model_deployment(replicas=1, rollout=rollout, model={"uri": "pvc://models/churn/3"}))

    eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 2, "the next version to be tried")
    serve(ns, "churn", uri="pvc://models/churn/3")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")


def test_another_objects_name_is_never_touched(ns: Namespace) -> None:
    ns.kubectl("create", "service", "clusterip", "churn", "--tcp=80:80")
    before = ns.get("service", "churn")

    ns.apply(model_deployment())

    condition = ns.wait_for_condition("mdep", "churn", "Ready", "False", "NameConflict")
    assert "Service churn was made by someone else" in condition["message"]
    assert ns.get("service", "churn") == before
    assert ns.get("deployment", "churn") is None


def test_kubectl_scale_changes_the_number_of_pods(ns: Namespace) -> None:
    ns.apply(model_deployment())
    eventually(lambda: ns.get("deployment", "churn"), bool, "the Deployment")

    ns.kubectl("scale", "mdep", "churn", "--replicas=3")

    eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 3, "three pods")
    eventually(
        lambda: ns.kubectl("get", "mdep", "churn", "-o=jsonpath={.status.replicas} {.status.selector}").split(),
        lambda seen: seen == ["3", "modelyard.dev/component=runtime,modelyard.dev/name=churn"],
        "the status that the scale subresource shows",
    )


def test_without_replicas_the_number_of_pods_is_whoever_scales_the_deployment(ns: Namespace) -> None:
    ns.apply(model_deployment())
    eventually(lambda: ns.get("deployment", "churn"), bool, "the Deployment")

    ns.kubectl("scale", "deployment", "churn", "--replicas=3")
    ns.apply(model_deployment(model={"uri": "pvc://models/churn/2"}))

    deployment = eventually(
        lambda: ns.get("deployment", "churn"), lambda seen: "churn/2" in str(seen["spec"]), "the new spec"
    )
    assert deployment["spec"]["replicas"] == 3


def test_an_autoscaler_takes_over_the_number_of_pods_that_there_are(ns: Namespace) -> None:
    resources = {"requests": {"cpu": "100m"}}
    ns.apply(model_deployment(replicas=3, resources=resources))
    eventually(lambda: ns.pods("churn"), lambda pods: len(pods) == 3, "three pods")
    eventually(lambda: ns.get("pdb", "churn"), bool, "the disruption budget")

    scaled = model_deployment(resources=resources, autoscaling={"maxReplicas": 5, "targetCPUUtilization": 70})
    ns.apply(scaled)

    autoscaler = eventually(lambda: ns.get("hpa", "churn"), bool, "the autoscaler")
    eventually(lambda: "f:replicas" not in _fields_of_ours(ns), what="the number of pods to be given up")
    assert (ns.get("deployment", "churn") or {})["spec"]["replicas"] == 3
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "churn"
    # This control plane has no metrics API, and its own HPA controller says so.
    missing = eventually(
        lambda: ns.condition("mdep", "churn", "ScalingActive"),
        lambda seen: seen.get("reason") == "MetricsMissing",
        "the missing metrics to be told",
    )
    assert "install metrics-server" in missing["message"]

    ns.apply(model_deployment(replicas=1, resources=resources))

    for kind in ("hpa", "pdb"):
        eventually(partial(ns.get, kind, "churn"), lambda seen: seen is None, f"the {kind} to go")
    eventually(lambda: (ns.get("deployment", "churn") or {})["spec"]["replicas"], lambda seen: seen == 1, "one pod")


def _fields_of_ours(ns: Namespace) -> str:
    text = ns.kubectl("get", "deployment", "churn", "-o", "json", "--show-managed-fields")
    managed = json.loads(text)["metadata"]["managedFields"]
    return json.dumps([entry["fieldsV1"] for entry in managed if entry["manager"] == "modelyard"])


def test_a_container_of_a_users_own_is_served_like_any_model(ns: Namespace) -> None:
    ns.apply(CONTAINER)
    serve(ns, "churn", version="4")

    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    service, headless = ns.get("service", "churn") or {}, ns.get("service", "churn-pods") or {}
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 9000]
    assert [port["port"] for port in headless["spec"]["ports"]] == [8000, 8001]

    ns.apply(CONTAINER_ALONE)

    deployment = eventually(
        lambda: ns.get("deployment", "churn") or {},
        lambda seen: "initContainers" not in seen["spec"]["template"]["spec"],
        "the container alone",
    )
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/server:1"
    assert "command" not in container
    assert "volumeMounts" not in container


def test_a_pod_template_is_merged_into_the_pods(ns: Namespace) -> None:
    proxy = {"name": "proxy", "image": "proxy:1"}
    runtime = {"name": "runtime", "image": "mine:2", "env": [{"name": "OMP_NUM_THREADS", "value": "2"}]}
    manifest = model_deployment(
        serviceAccountName="reader",
        podTemplate={"spec": {"nodeSelector": {"pool": "gpu"}, "containers": [proxy, runtime]}},
    )
    manifest["metadata"]["labels"] = {"team": "ml"}

    ns.apply(manifest)

    deployment = eventually(lambda: ns.get("deployment", "churn"), bool, "the Deployment")
    template = deployment["spec"]["template"]
    containers = {container["name"]: container for container in template["spec"]["containers"]}
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["spec"]["serviceAccountName"] == "reader"
    assert template["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert (containers["proxy"]["image"], containers["runtime"]["image"]) == ("proxy:1", "mine:2")
    assert {"name": "OMP_NUM_THREADS", "value": "2"} in containers["runtime"]["env"]
    assert containers["runtime"]["command"] == ["python", "-m", "modelyard_runtime"]

    ns.apply(model_deployment())

    template = eventually(
        lambda: (ns.get("deployment", "churn") or {})["spec"]["template"],
        lambda seen: len(seen["spec"]["containers"]) == 1,
        "the sidecar to go",
    )
    assert "nodeSelector" not in template["spec"]
    assert template["spec"]["serviceAccountName"] == "default"
    assert template["metadata"]["labels"].keys() & {"team"} == set()


def test_a_pod_template_that_is_none_is_told_with_the_field(ns: Namespace) -> None:
    ns.apply(model_deployment(podTemplate={"spec": {"nodeSelecter": {"pool": "gpu"}}}))

    refused = ns.wait_for_condition("mdep", "churn", "Ready", "False", "InvalidPodTemplate")
    assert "nodeSelecter" in refused["message"]

    ns.apply(model_deployment(podTemplate={"spec": {"containers": [{"name": "runtime", "command": ["sh"]}]}}))

    refused = ns.wait_for_condition("mdep", "churn", "Ready", "False", "InvalidSpec")
    assert "spec.podTemplate.spec.containers[runtime].command" in refused["message"]


def test_repeated_reconciles_change_nothing(ns: Namespace, operator: OperatorProcess) -> None:
    ns.apply(model_deployment(replicas=1))
    serve(ns, "churn")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
    versions = {kind: (ns.get(kind, "churn") or {})["metadata"]["resourceVersion"] for kind in ("mdep", "deployment")}

    ns.kubectl("annotate", "service", "churn", "touched=yes")
    ns.kubectl("delete", "service", "churn-pods")
    eventually(lambda: ns.get("service", "churn-pods"), bool, "the Service to be made anew")

    after = {kind: (ns.get(kind, "churn") or {})["metadata"]["resourceVersion"] for kind in ("mdep", "deployment")}
    assert after == versions


def test_a_child_that_is_no_longer_rendered_is_deleted_and_others_objects_are_not(ns: Namespace) -> None:
    ns.apply(model_deployment())
    ns.wait_for_condition("mdep", "churn", "Ready", "False", "RollingOut")
    once_ours = ns.get("service", "churn-pods") or {}
    leftover = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "churn-leftover",
            "labels": once_ours["metadata"]["labels"],
            "ownerReferences": once_ours["metadata"]["ownerReferences"],
        },
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    }
    alike = {**leftover, "metadata": {"name": "churn-alike", "labels": once_ours["metadata"]["labels"]}}

    ns.apply(alike, leftover)

    eventually(lambda: ns.get("service", "churn-leftover"), lambda seen: seen is None, "what is left over to go")
    assert ns.get("service", "churn-alike") is not None
    assert ns.get("service", "churn-pods") is not None


def test_deleting_takes_the_children_along(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=1))
    eventually(lambda: ns.get("deployment", "churn"), bool, "the Deployment")

    ns.kubectl("delete", "mdep", "churn")

    for kind, name in (("deployment", "churn"), ("service", "churn"), ("service", "churn-pods")):
        eventually(partial(ns.get, kind, name), lambda seen: seen is None, f"{kind} {name} to go")


def test_a_namesake_made_at_once_waits_for_the_old_children_to_go(ns: Namespace) -> None:
    ns.apply(model_deployment(replicas=1))
    serve(ns, "churn")
    ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")

    ns.kubectl("delete", "mdep", "churn", "--wait=false")
    ns.apply(model_deployment(replicas=1))

    uid = (ns.get("mdep", "churn") or {})["metadata"]["uid"]
    eventually(
        lambda: ns.get("deployment", "churn"),
        lambda seen: seen is not None and seen["metadata"]["ownerReferences"][0]["uid"] == uid,
        "the Deployment of the namesake",
    )


def test_an_abtest_becomes_a_router_once_its_models_answer(ns: Namespace) -> None:
    ns.apply(abtest())
    ns.wait_for_condition("abt", "churn-test", "Ready", "False", "UnknownModelDeployment")

    for name in ("churn", "churn-gbm"):
        ns.apply(model_deployment(name, model={"uri": "pvc://models/churn/1", "name": "churn"}))
    ns.wait_for_condition("abt", "churn-test", "Ready", "False", "VariantNotAvailable")
    assert ns.get("deployment", "churn-test-router") is None
    for name in ("churn", "churn-gbm"):
        serve(ns, name)

    config_map = eventually(lambda: ns.get("configmap", "churn-test-router"), bool, "the ConfigMap")
    ns.wait_for_condition("abt", "churn-test", "RouterAvailable", "False", "Starting")
    status = (ns.get("abt", "churn-test") or {})["status"]
    assert status["weights"] == {"current": 9000, "gbm": 1000}
    assert status["weightsSummary"] == "current 90%, gbm 10%"
    assert status["epoch"] == 1
    assert config_map["data"]["buckets.json"] == status["buckets"]
    assert (ns.get("service", "churn-test") or {})["spec"]["ports"][0]["port"] == 80


def test_a_shift_moves_the_fewest_buckets_and_begins_an_epoch(ns: Namespace) -> None:
    for name in ("churn", "churn-gbm"):
        ns.apply(model_deployment(name, model={"uri": "pvc://models/churn/1", "name": "churn"}))
        serve(ns, name)
    ns.apply(abtest())
    eventually(lambda: ns.get("configmap", "churn-test-router"), bool, "the ConfigMap")
    template = (eventually(lambda: ns.get("deployment", "churn-test-router"), bool, "the router"))["spec"]["template"]
    pods = eventually(lambda: ns.pods("churn-test"), bool, "router pods")

    patch = '[{"op": "replace", "path": "/spec/variants/1/weight", "value": 90}]'
    ns.kubectl("patch", "abt", "churn-test", "--type=json", "-p", patch)

    status = eventually(
        lambda: (ns.get("abt", "churn-test") or {})["status"], lambda status: status.get("epoch") == 2, "epoch 2"
    )
    assert status["weights"] == {"current": 5000, "gbm": 5000}
    config_map = ns.get("configmap", "churn-test-router") or {}
    eventually(
        lambda: {pod["metadata"]["annotations"].get("modelyard.dev/router-version") for pod in ns.pods("churn-test")},
        lambda versions: versions == {config_map["data"]["version"]},
        "the pods to be nudged",
    )
    assert (ns.get("deployment", "churn-test-router") or {})["spec"]["template"] == template
    assert {pod["metadata"]["uid"] for pod in ns.pods("churn-test")} == {pod["metadata"]["uid"] for pod in pods}


def test_variants_that_serve_different_names_are_refused(ns: Namespace) -> None:
    for name in ("churn", "churn-gbm"):
        ns.apply(model_deployment(name))
        serve(ns, name)

    ns.apply(abtest())

    condition = ns.wait_for_condition("abt", "churn-test", "Ready", "False", "ModelNameMismatch")
    assert "spec.model.name" in condition["message"]
