"""Every value is documented, checked and does something."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard_runtime.contract import URI_FORMS

from .harness import Chart

# Every value that the chart has, and another than its default.
OTHER_VALUES: dict[str, Any] = {
    "image.registry": "registry.example",
    "image.repository": "other",
    "image.tag": "9.9",
    "image.operator": "registry.example/operator:x",
    "image.runtime": "registry.example/runtime:x",
    "image.router": "registry.example/router:x",
    "image.pullPolicy": "Never",
    "image.pullSecrets": ["registry-read"],
    "envoy.image": "",
    "router.replicas": 5,
    "router.concurrency": 2,
    "router.resources": {"envoy": {"limits": {"memory": "256Mi"}}},
    "podSecurity.fixedUser": False,
    "tracing.env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability.svc:4318"},
    "watchNamespaces": ["a", "b"],
    "clusterDomain": "example.internal",
    "replicas": 1,
    "workers": 3,
    "logLevel": "ERROR",
    "crds.install": False,
    "crds.keep": False,
    "rbac.create": False,
    "rbac.aggregate": False,
    "serviceAccount.create": False,
    "serviceAccount.name": "someone",
    "serviceAccount.annotations": {"note": "x"},
    "metrics.service.enabled": False,
    "metrics.service.annotations": {"note": "x"},
    "resources": {"limits": {"cpu": 1}},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podAnnotations": {"note": "x"},
    "podLabels": {"team": "ml"},
    "extraEnv": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "fullnameOverride": "models",
}

VALUE_SETS: dict[str, list[str]] = {
    "default": [],
    "namespaced": ["watchNamespaces"],
    "pull-secrets": ["image.pullSecrets"],
    "custom-images": ["image.registry", "image.repository", "image.tag", "envoy.image"],
    "crds-off": ["crds.install"],
    "everything": [
        path for path in OTHER_VALUES if path not in ("crds.install", "rbac.create", "metrics.service.enabled")
    ],
}

WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"imagee": {"tag": "x"}}, "imagee"),
    "misspelt-inside": ({"image": {"tga": "x"}}, "tga"),
    "no-router": ({"router": {"replicas": 0}}, "/router/replicas"),
    "half-a-thread": ({"router": {"concurrency": 0.5}}, "/router/concurrency"),
    "pull-policy": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    "pull-secret-as-an-object": ({"image": {"pullSecrets": [{"name": "x"}]}}, "/image/pullSecrets/0"),
    "image-with-a-space": ({"image": {"runtime": "a b"}}, "/image/runtime"),
    "tag-as-a-number": ({"image": {"tag": 1.2}}, "/image/tag"),
    "tracing-variable": ({"tracing": {"env": {"PATH": "/"}}}, "/tracing/env"),
    "tracing-number": ({"tracing": {"env": {"OTEL_TRACES_SAMPLER_ARG": 0.1}}}, "/tracing/env/OTEL_TRACES_SAMPLER_ARG"),
    "namespace-name": ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
    "namespaces-as-text": ({"watchNamespaces": "a,b"}, "/watchNamespaces"),
    "namespace-twice": ({"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    "domain": ({"clusterDomain": "under_score"}, "/clusterDomain"),
    "no-workers": ({"workers": 0}, "/workers"),
    "log-level": ({"logLevel": "verbose"}, "/logLevel"),
    "text-for-true": ({"crds": {"keep": "yes"}}, "/crds/keep"),
    "resources": ({"resources": {"memory": "1Gi"}}, "/resources"),
    "router-resources": ({"router": {"resources": {"envoy": {"memory": "1Gi"}}}}, "/router/resources/envoy"),
    "fixed-user-as-text": ({"podSecurity": {"fixedUser": "no"}}, "/podSecurity/fixedUser"),
    "label-value": ({"podLabels": {"a": 1}}, "/podLabels/a"),
    "the-charts-own-variable": ({"extraEnv": [{"name": "MODELYARD_PORT", "value": "1"}]}, "/extraEnv/0/name"),
    "a-variable-without-name": ({"extraEnv": [{"value": "1"}]}, "/extraEnv/0"),
    "affinity": ({"affinity": {"nodes": {}}}, "/affinity"),
}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        # `resources` is one value: what is in it is Kubernetes' own.
        if isinstance(value, dict) and value and key != "resources":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def nested(paths: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path in paths:
        *parents, key = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = OTHER_VALUES[path]
    return result


def test_the_table_above_holds_every_value(chart: Chart) -> None:
    values = yaml.safe_load((chart.folder / "values.yaml").read_text())

    assert set(leaves(values)) == set(OTHER_VALUES)


@pytest.mark.parametrize("path", OTHER_VALUES)
def test_every_value_does_something(chart: Chart, path: str) -> None:
    assert chart.render(**nested([path])) != chart.defaults


@pytest.mark.parametrize("name", VALUE_SETS)
def test_helm_finds_no_fault(chart: Chart, name: str) -> None:
    values = nested(VALUE_SETS[name])

    assert "0 chart(s) failed" in chart.lint(**values)
    objects = chart.render(**values).objects
    assert all({"apiVersion", "kind", "metadata"} <= set(obj) for obj in objects)
    identities = [(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_wrong_value_is_refused_by_name(chart: Chart, name: str) -> None:
    values, named = WRONG_VALUES[name]

    message = chart.refusal(**values)

    # Helm 3 before 3.18 writes router.replicas, later ones /router/replicas.
    plain = named.removeprefix("/")
    assert re.search(re.escape(plain).replace("/", "[./]"), message), message


def test_the_chart_can_be_part_of_another(chart: Chart) -> None:
    chart.render(**{"global": {"any": "thing"}})


def test_chart_and_project_have_one_version(chart: Chart, repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    about = yaml.safe_load((chart.folder / "Chart.yaml").read_text())

    assert about["version"] == about["appVersion"] == project["version"]
    assert about["description"] == project["description"]


def test_the_notes_say_what_to_do_next(chart: Chart) -> None:
    notes = chart.notes(watchNamespaces=["team-a"])

    assert "kubectl -n modelyard-system rollout status deployment/modelyard-operator" in notes
    assert "kubectl -n team-a apply" in notes
    assert "modelyard.dev/v1alpha1" in notes
    assert [scheme for scheme in URI_FORMS if f"{scheme}://" not in notes] == ["file"]  # that one is in the image
    assert "deletes every" not in notes


def test_the_notes_warn_of_what_may_surprise(chart: Chart) -> None:
    assert "must be in every namespace" in chart.notes(image={"pullSecrets": ["x"]})
    assert "rollout restart" in chart.notes(crds={"install": False})
    assert "deletes every ModelDeployment" in chart.notes(crds={"keep": False})
