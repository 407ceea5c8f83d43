"""What users may change of a model's pods, what they may not, and what comes of it."""

from collections.abc import Callable
from typing import Any

import pytest
from manifest_cases import model_deployment
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.schema import InvalidManifest
from modelyard_operator.manifests.common import Object
from modelyard_operator.manifests.modeldeployment import render_model_deployment
from modelyard_operator.manifests.settings import Settings

SETTINGS = Settings(runtime_image="runtime:1", router_image="router:1", envoy_image="envoy:1")


def _template(patch: Object | None = None, *, metadata: Object | None = None, **spec: Any) -> Object:
    given = spec if patch is None else {**spec, "podTemplate": patch}
    manifest = model_deployment("churn", **given)
    manifest["metadata"] |= {"namespace": "shop", "uid": "u", **(metadata or {})}
    children = render_model_deployment(manifest, ModelDeploymentSpec.parse(manifest["spec"]), SETTINGS)
    [deployment] = [child for child in children if child["kind"] == "Deployment"]
    template: Object = deployment["spec"]["template"]
    return template


def _runtime(**fields: Any) -> Object:
    return {"spec": {"containers": [{"name": "runtime", **fields}]}}


def _container(template: Object, name: str = "runtime") -> Object:
    [container] = [entry for entry in template["spec"]["containers"] if entry["name"] == name]
    return dict(container)


def test_a_container_is_changed_field_by_field() -> None:
    before = _container(_template())

    after = _container(_template(_runtime(image="mine:2", env=[{"name": "OMP_NUM_THREADS", "value": "2"}])))

    assert after["image"] == "mine:2"
    assert after["env"] == [{"name": "OMP_NUM_THREADS", "value": "2"}, *before["env"]]
    assert {key: value for key, value in after.items() if key not in ("image", "env")} == {
        key: value for key, value in before.items() if key not in ("image", "env")
    }


def test_the_image_of_the_container_that_fetches_stays() -> None:
    [fetch] = _template(_runtime(image="mine:2"))["spec"]["initContainers"]

    assert fetch["image"] == "runtime:1"


def test_a_null_takes_a_field_away() -> None:
    spec = _template({"spec": {"securityContext": {"runAsUser": None, "runAsGroup": None}}})["spec"]

    assert "runAsUser" not in spec["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True


def test_a_change_makes_a_new_revision() -> None:
    revisions = {
        template["metadata"]["labels"]["modelyard.dev/revision"]
        for template in (_template(), _template(_runtime(image="mine:2")), _template({}))
    }

    assert len(revisions) == 2


def test_labels_and_annotations_of_the_model_deployment_reach_its_pods() -> None:
    metadata = {"labels": {"team": "ml", "tier": "gold"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    patch = {"metadata": {"labels": {"tier": "silver"}}}

    pods = _template(patch, metadata=metadata)["metadata"]

    assert pods["labels"]["team"] == "ml"
    assert pods["labels"]["tier"] == "silver"
    assert pods["annotations"]["sidecar.istio.io/inject"] == "false"


@pytest.mark.parametrize(
    "key",
    [
        "kubectl.kubernetes.io/last-applied-configuration",
        "argocd.argoproj.io/tracking-id",
        "argocd.argoproj.io/instance",
        "kustomize.toolkit.fluxcd.io/name",
        "meta.helm.sh/release-name",
        "modelyard.dev/name",
    ],
)
def test_marks_of_the_tool_that_applied_the_model_deployment_stay_off_its_pods(key: str) -> None:
    metadata = {"labels": {key: "theirs"}, "annotations": {key: "theirs"}}

    assert "theirs" not in str(_template(metadata=metadata))


def test_the_service_account_is_the_one_that_is_named() -> None:
    assert _template()["spec"]["serviceAccountName"] == "default"
    assert _template(serviceAccountName="reader")["spec"]["serviceAccountName"] == "reader"


def test_a_container_of_a_users_own_is_named_in_one_place() -> None:
    container = {"image": "server:1"}

    with pytest.raises(InvalidManifest, match=r"containers\[runtime\].image: set spec.container.image"):
        _template(_runtime(image="mine:2"), container=container)

    template = _template(_runtime(livenessProbe={"tcpSocket": {"port": "http"}}), container=container)
    assert _container(template)["livenessProbe"] == {"tcpSocket": {"port": "http"}}


def _fetch(**fields: Any) -> Object:
    return {"spec": {"initContainers": [{"name": "fetch", **fields}]}}


REFUSED: dict[str, tuple[Object, str, str]] = {
    "command": (_runtime(command=["sh"]), "spec.podTemplate.spec.containers[runtime].command", "can't be changed"),
    "arguments": (_runtime(args=["-v"]), "spec.podTemplate.spec.containers[runtime].args", "can't be changed"),
    "readiness": (
        _runtime(readinessProbe={"periodSeconds": 60}),
        "spec.podTemplate.spec.containers[runtime].readinessProbe",
        "rollouts rely on it",
    ),
    "port": (
        _runtime(ports=[{"containerPort": 8080, "name": "web"}]),
        "spec.podTemplate.spec.containers[runtime].ports[8080]",
        "Services send to",
    ),
    "port-taken-away": (
        _runtime(ports=[{"containerPort": 9000, "$patch": "delete"}]),
        "spec.podTemplate.spec.containers[runtime].ports[9000]",
        "Services send to",
    ),
    "variable": (
        _runtime(env=[{"name": "MODELYARD_TIMEOUT", "value": "1"}]),
        "spec.podTemplate.spec.containers[runtime].env[MODELYARD_TIMEOUT]",
        "set those",
    ),
    "all-variables": (
        _runtime(env=[{"$patch": "replace"}]),
        "spec.podTemplate.spec.containers[runtime].env[MODELYARD_MODEL_NAME]",
        "set those",
    ),
    "mount": (
        _runtime(volumeMounts=[{"mountPath": "/mnt/model", "name": "tmp"}]),
        "spec.podTemplate.spec.containers[runtime].volumeMounts[/mnt/model]",
        "can't be changed",
    ),
    "container-taken-away": (
        {"spec": {"containers": [{"name": "runtime", "$patch": "delete"}]}},
        "spec.podTemplate.spec.containers[runtime]",
        "can't be left out",
    ),
    "fetch-taken-away": (
        {"spec": {"initContainers": [{"name": "fetch", "$patch": "delete"}]}},
        "spec.podTemplate.spec.initContainers[fetch]",
        "can't be left out",
    ),
    "fetch-command": (_fetch(command=["true"]), "spec.podTemplate.spec.initContainers[fetch].command", "changed"),
    "volume": (
        {"spec": {"volumes": [{"name": "model", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}},
        "spec.podTemplate.spec.volumes[model]",
        "another name",
    ),
    "grace-period": (
        {"spec": {"terminationGracePeriodSeconds": 1}},
        "spec.podTemplate.spec.terminationGracePeriodSeconds",
        "spec.serving.drainDelay",
    ),
    "service-account": (
        {"spec": {"serviceAccountName": "x"}},
        "spec.podTemplate.spec.serviceAccountName",
        "set spec.serviceAccountName",
    ),
    "everything": ({"spec": {"$patch": "delete"}}, "spec.podTemplate.spec", "as a whole"),
    "sidecar-on-our-port": (
        {"spec": {"containers": [{"name": "proxy", "image": "p", "ports": [{"containerPort": 8080}]}]}},
        "spec.podTemplate.spec.containers[proxy].ports",
        "8080 is a port of the model",
    ),
    "sidecar-with-our-ports-name": (
        {"spec": {"containers": [{"name": "p", "image": "p", "ports": [{"name": "http", "containerPort": 1}]}]}},
        "spec.podTemplate.spec.containers[p].ports",
        "http is a port of the model",
    ),
    "unknown-directive": (
        _runtime(**{"$setElementOrder/env": []}),
        "spec.podTemplate.spec.containers[0].$setElementOrder/env",
        "$patch",
    ),
    "list-for-an-object": ({"spec": {"securityContext": []}}, "spec.podTemplate.spec.securityContext", "an object"),
    "object-for-a-list": ({"spec": {"volumes": {}}}, "spec.podTemplate.spec.volumes", "a list"),
    "item-without-its-key": (
        _runtime(env=[{"value": "x"}]),
        "spec.podTemplate.spec.containers[0].env[0].name",
        "required",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_rollouts_and_services_rely_on_is_refused_with_a_remedy(name: str) -> None:
    patch, path, remedy = REFUSED[name]

    with pytest.raises(InvalidManifest) as refused:
        _template(patch)

    messages = {error.path: error.message for error in refused.value.errors}
    assert path in messages
    assert remedy in messages[path]


@pytest.mark.parametrize(
    "strange",
    [
        lambda: {"spec": {"containers": [{"name": "p", "ports": "8080", "env": {}, "volumeMounts": 1}]}},
        lambda: {"spec": {"containers": [{"name": "p", "ports": [8080, {}]}], "hostAliases": None}},
        lambda: {"spec": {"nonsense": {"deep": [{"x": None}]}}},
    ],
)
def test_what_is_no_pod_at_all_is_left_to_the_api_server(strange: Callable[[], Object]) -> None:
    _template(strange())
