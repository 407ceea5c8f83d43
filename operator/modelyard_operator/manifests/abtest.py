"""ABTest -> an Envoy router: ConfigMap, Service and Deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from modelyard_runtime.contract import (
    ROUTER_CONFIG_MOUNT,
    ROUTER_HTTP_PORT,
    ROUTER_READY_PATH,
    ROUTER_RUN_MOUNT,
    ROUTER_SIDECAR_PORT,
    RouterFile,
    RouterPath,
)

from modelyard_operator.api.abtest import ABTestSpec
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.schema import parse_duration
from modelyard_operator.experiment.buckets import Segment
from modelyard_operator.manifests.common import (
    COMPONENT_ROUTER,
    CONTAINER_SECURITY,
    Object,
    Ports,
    child_metadata,
    deployment,
    pod_security,
    pod_template,
    scrape_annotations,
    service,
    spread,
)
from modelyard_operator.manifests.envoy import RouterConfig, Upstream, envoy_command, render_router_files
from modelyard_operator.manifests.modeldeployment import health_path, ports_of
from modelyard_operator.manifests.settings import Settings

__all__ = [
    "ENVOY_CONTAINER",
    "SIDECAR_CONTAINER",
    "read_annotations",
    "render_abtest",
    "router_config",
    "router_name",
]

ENVOY_CONTAINER = "envoy"
SIDECAR_CONTAINER = "sidecar"
_ROUTE_MARGIN = 5.0  # the runtime's own 504, in its protocol's form, comes before Envoy's
_DRAIN_LIMIT = 60

# On the ConfigMap: what makes a split another one, so that the next reconcile knows when a new epoch begins.
_EPOCH = "modelyard.dev/epoch"
_HEADER = "modelyard.dev/assignment-header"
_SALT = "modelyard.dev/assignment-salt"
_BOOTSTRAP = "modelyard.dev/bootstrap"


def router_name(name: str) -> str:
    """Return the name of an ABTest's ConfigMap and Deployment."""
    return f"{name}-router"


def router_config(
    owner: Object,
    spec: ABTestSpec,
    models: Mapping[str, ModelDeploymentSpec],
    *,
    buckets: tuple[Segment, ...],
    epoch: int,
    settings: Settings,
) -> RouterConfig:
    """Return what the routers of an ABTest do.

    Args:
        owner: the live ABTest.
        spec: its parsed spec.
        models: by name, the specs of the ModelDeployments that its variants name.
        buckets: the map of 10000 buckets.
        epoch: the number of the period of constant weights.
        settings: the installation's.
    """
    name, namespace = owner["metadata"]["name"], owner["metadata"]["namespace"]
    upstreams = [
        Upstream(
            variant=variant.name,
            host=f"{variant.model_deployment}-pods.{namespace}.svc.{settings.cluster_domain}",
            port=ports_of(models[variant.model_deployment]).http,
            health_path=health_path(models[variant.model_deployment]),
            timeout_seconds=parse_duration(models[variant.model_deployment].serving.limits.timeout) + _ROUTE_MARGIN,
        )
        for variant in sorted(spec.variants, key=lambda variant: variant.name)
    ]
    return RouterConfig(
        name=name,
        epoch=epoch,
        salt=spec.assignment.salt or name,
        header=spec.assignment.header.lower(),
        override_header=spec.override.header.lower() if spec.override else None,
        upstreams=tuple(upstreams),
        buckets=buckets,
    )


def read_annotations(config_map: Object) -> tuple[int, tuple[str, str]]:
    """Return the epoch and the (header, salt) of the split that a live ConfigMap holds.

    Raises:
        KeyError, ValueError: it holds none.
    """
    annotations = config_map["metadata"]["annotations"]
    return int(annotations[_EPOCH]), (annotations[_HEADER], annotations[_SALT])


def render_abtest(owner: Object, config: RouterConfig, settings: Settings) -> list[Object]:
    """Return the children of an ABTest, in the order in which they are applied."""
    name = owner["metadata"]["name"]
    files = render_router_files(config)
    # Envoy reads its bootstrap once: pods with another one have to be other pods.
    bootstrap = hashlib.sha256(files[RouterFile.BOOTSTRAP].encode()).hexdigest()[:10]
    config_map: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(owner, COMPONENT_ROUTER, router_name(name)),
        "data": files,
    }
    config_map["metadata"]["annotations"] = {_EPOCH: str(config.epoch), _HEADER: config.header, _SALT: config.salt}
    return [
        config_map,
        service(owner, COMPONENT_ROUTER, name, Ports()),
        deployment(
            owner,
            COMPONENT_ROUTER,
            router_name(name),
            replicas=settings.router_replicas,
            template=pod_template(
                owner,
                COMPONENT_ROUTER,
                _pod_spec(name, settings),
                scrape_annotations(ROUTER_SIDECAR_PORT) | {_BOOTSTRAP: bootstrap},
            ),
        ),
    ]


def _pod_spec(name: str, settings: Settings) -> Object:
    pod: Object = {
        "initContainers": [_sidecar(settings)],
        "containers": [_envoy(settings)],
        "volumes": [
            {"name": "config", "configMap": {"name": router_name(name)}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "terminationGracePeriodSeconds": _DRAIN_LIMIT + 15,
        "topologySpreadConstraints": spread(COMPONENT_ROUTER, name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(fixed_user=settings.fixed_user),
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return pod


def _sidecar(settings: Settings) -> Object:
    # A native sidecar (Kubernetes 1.29): starts before Envoy, whose files it writes, and outlives it.
    return {
        "name": SIDECAR_CONTAINER,
        "image": settings.router_image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "command": [
            *("python", "-m", "modelyard_router"),
            *("--config-dir", ROUTER_CONFIG_MOUNT, "--run-dir", ROUTER_RUN_MOUNT),
        ],
        "ports": [{"name": "sidecar", "containerPort": ROUTER_SIDECAR_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": str(RouterPath.STARTED), "port": ROUTER_SIDECAR_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 60,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": ROUTER_CONFIG_MOUNT, "readOnly": True},
            {"name": "run", "mountPath": ROUTER_RUN_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
        "resources": settings.sidecar_resources,
        "securityContext": CONTAINER_SECURITY,
    }


def _envoy(settings: Settings) -> Object:
    return {
        "name": ENVOY_CONTAINER,
        "image": settings.envoy_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*envoy_command(), "--concurrency", str(settings.router_concurrency)],
        "ports": [{"name": "http", "containerPort": ROUTER_HTTP_PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": ROUTER_READY_PATH, "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "lifecycle": {
            "preStop": {"httpGet": {"path": f"{RouterPath.DRAIN}?limit={_DRAIN_LIMIT}", "port": ROUTER_SIDECAR_PORT}}
        },
        "volumeMounts": [
            {"name": "run", "mountPath": ROUTER_RUN_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
        "resources": settings.envoy_resources,
        "securityContext": CONTAINER_SECURITY,
    }
