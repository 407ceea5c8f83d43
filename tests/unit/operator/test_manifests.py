"""Rendered objects as a whole, against files that a person can read.

After a change that is meant: `python tests/unit/operator/test_manifests.py` writes the files anew; read the diff.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_cases import AUTOSCALED, CONTAINER, CONTAINER_ALONE, FULL, abtest, model_deployment
from modelyard_operator.api.abtest import ABTestSpec
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.experiment.buckets import Segment
from modelyard_operator.main import Config, ConfigError
from modelyard_operator.manifests.abtest import read_annotations, render_abtest, router_config
from modelyard_operator.manifests.common import LABEL_REVISION
from modelyard_operator.manifests.modeldeployment import render_model_deployment
from modelyard_operator.manifests.settings import Settings

RENDERED = Path(__file__).parent / "rendered"
SETTINGS = Settings(
    runtime_image="modelyard/runtime:1",
    router_image="modelyard/router:1",
    envoy_image="envoy:1",
    image_pull_secrets=("registry",),
)
Object = dict[str, Any]


def _owner(manifest: Object) -> Object:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": "shop", "uid": "uid-1", "generation": 1}}


def _model(manifest: Object, settings: Settings = SETTINGS) -> list[Object]:
    return render_model_deployment(_owner(manifest), ModelDeploymentSpec.parse(manifest["spec"]), settings)


def _router(weights: tuple[int, int] = (9000, 1000)) -> list[Object]:
    owner = _owner(abtest(override={"header": "x-modelyard-variant"}))
    spec = ABTestSpec.parse(owner["spec"])
    models = {name: ModelDeploymentSpec.parse(model_deployment(name)["spec"]) for name in ("churn", "churn-gbm")}
    buckets = (Segment("current", weights[0]), Segment("gbm", weights[1]))
    return render_abtest(
        owner, router_config(owner, spec, models, buckets=buckets, epoch=3, settings=SETTINGS), SETTINGS
    )


def _cases() -> dict[str, list[Object]]:
    router = _router()
    router[0]["data"] = dict.fromkeys(router[0]["data"], "...")  # tests/unit/router reads these as Envoy does
    return {
        "model-minimal": _model(model_deployment()),
        "model-full": _model(FULL),
        "model-autoscaled": _model(AUTOSCALED),
        "container": _model(CONTAINER),
        "container-alone": _model(CONTAINER_ALONE),
        "router": router,
    }


@pytest.mark.parametrize(
    "name", ["model-minimal", "model-full", "model-autoscaled", "container", "container-alone", "router"]
)
def test_whole_objects(name: str) -> None:
    expected = list(yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text()))

    assert _plain(_cases()[name]) == expected


def test_tracing_reaches_the_runtime_and_no_other_container() -> None:
    tracing = {
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=live",
    }

    pod = _model(model_deployment(), replace(SETTINGS, tracing=tracing))[-1]["spec"]["template"]["spec"]

    (runtime,) = pod["containers"]
    (untraced,) = _model(model_deployment())[-1]["spec"]["template"]["spec"]["containers"]
    assert runtime["env"][len(untraced["env"]) :] == [
        {"name": "K8S_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "K8S_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"},
        {
            "name": "OTEL_RESOURCE_ATTRIBUTES",
            "value": "k8s.namespace.name=$(K8S_NAMESPACE),k8s.deployment.name=churn,k8s.pod.name=$(K8S_POD),"
            "deployment.environment.name=live",
        },
        {"name": "OTEL_TRACES_SAMPLER_ARG", "value": "0.1"},
    ]
    assert "OTEL_" not in str(pod["initContainers"])


@pytest.mark.parametrize("value", ["x", "[]", '{"PATH": "/"}', '{"OTEL_BSP_SCHEDULE_DELAY": 5}'])
def test_tracing_that_is_no_set_of_variables_is_refused(value: str) -> None:
    images = dict.fromkeys(("MODELYARD_RUNTIME_IMAGE", "MODELYARD_ROUTER_IMAGE", "MODELYARD_ENVOY_IMAGE"), "image:1")

    with pytest.raises(ConfigError, match="MODELYARD_TRACING must be a JSON object"):
        Config.from_env({**images, "MODELYARD_TRACING": value})


def test_replicas_do_not_make_a_new_revision_and_a_new_uri_does() -> None:
    def revision(manifest: Object) -> str:
        deployment = _model(manifest)[-1]
        return str(deployment["spec"]["template"]["metadata"]["labels"][LABEL_REVISION])

    base = revision(model_deployment())

    assert revision(model_deployment(replicas=7)) == base
    assert revision(model_deployment(model={"uri": "pvc://models/churn/2"})) != base


@pytest.mark.parametrize(("replicas", "kinds"), [(None, set()), (0, set()), (1, set()), (2, {"PodDisruptionBudget"})])
def test_more_than_one_pod_gets_a_disruption_budget(replicas: int | None, kinds: set[str]) -> None:
    manifest = model_deployment() if replicas is None else model_deployment(replicas=replicas)

    assert {child["kind"] for child in _model(manifest)} - {"Service", "Deployment"} == kinds


def test_routers_find_a_container_by_its_own_port_and_readiness() -> None:
    owner = _owner(abtest())
    spec = ABTestSpec.parse(owner["spec"])
    models = {
        "churn": ModelDeploymentSpec.parse(CONTAINER["spec"]),
        "churn-gbm": ModelDeploymentSpec.parse(CONTAINER_ALONE["spec"]),
    }
    buckets = (Segment("current", 9000), Segment("gbm", 1000))

    config = router_config(owner, spec, models, buckets=buckets, epoch=1, settings=SETTINGS)

    assert [(upstream.port, upstream.health_path) for upstream in config.upstreams] == [
        (8000, "/v2/health/ready"),
        (8080, None),
    ]


@pytest.mark.parametrize("manifest", [model_deployment(), CONTAINER], ids=["ours", "container"])
def test_users_and_groups_can_be_left_to_the_cluster(manifest: Object) -> None:
    template = _model(manifest, replace(SETTINGS, fixed_user=False))[-1]["spec"]["template"]

    assert "65532" in str(_model(manifest)[-1]["spec"]["template"])
    assert "65532" not in str(template)


def test_credentials_reach_the_init_container_and_no_other() -> None:
    model = {"uri": "oci://registry.example.com/churn:4", "credentials": {"secretName": "pull"}}
    pod = _model(model_deployment(model=model))[-1]["spec"]["template"]["spec"]

    (fetch,) = pod["initContainers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "pull"}}]
    assert fetch["env"] == [
        {
            "name": "MODELYARD_DOCKER_CONFIG_JSON",
            "valueFrom": {"secretKeyRef": {"name": "pull", "key": ".dockerconfigjson", "optional": True}},
        }
    ]
    assert "pull" not in str([pod["containers"], pod["volumes"]])


def test_a_shift_leaves_the_router_pods_alone() -> None:
    before, after = _router((9000, 1000)), _router((5000, 5000))

    changed = [old["kind"] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["ConfigMap"]


def test_the_config_map_tells_the_next_reconcile_what_the_split_was() -> None:
    assert read_annotations(_router()[0]) == (3, ("x-user-id", "churn-test"))


def _plain(objects: list[Object]) -> list[Object]:
    return list(yaml.safe_load_all(_dump(objects)))


def _dump(objects: list[Object]) -> str:
    class NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump_all(objects, Dumper=NoAliases, sort_keys=False, width=120)


if __name__ == "__main__":
    for case, rendered in _cases().items():
        (RENDERED / f"{case}.yaml").write_text(_dump(rendered))
