"""What an installation decides and a spec does not: images, addresses, sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Settings", "cluster_url"]


def cluster_url(namespace: str, service: str) -> str:
    """Return the address of a Service as pods of the cluster reach it."""
    return f"http://{service}.{namespace}.svc"


@dataclass(frozen=True)
class Settings:
    """Settings of one installation, the same for every object it renders."""

    runtime_image: str
    """Image of model pods: holds `python` and `modelyard_runtime`."""

    router_image: str
    """Image of the sidecar beside Envoy: holds `python` and `modelyard_router`."""

    envoy_image: str
    """Image that holds `envoy`, 1.36 or newer."""

    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()

    cluster_domain: str = "cluster.local"
    """The DNS suffix of Services; routers ask for full names, so that a resolver's search list costs nothing."""

    fixed_user: bool = True
    """Whether pods name a user id of ours; OpenShift gives each namespace ids of its own, and refuses others."""

    router_replicas: int = 2
    """Pods of each router: two, so that the loss of a node does not stop a test."""

    router_concurrency: int = 1
    """Envoy's worker threads in each router pod."""

    envoy_resources: Mapping[str, Mapping[str, str | int]] = field(
        default_factory=lambda: {"requests": {"cpu": "50m", "memory": "64Mi"}}
    )
    """Requests and limits of Envoy in each router pod."""

    sidecar_resources: Mapping[str, Mapping[str, str | int]] = field(
        default_factory=lambda: {"requests": {"cpu": "20m", "memory": "48Mi"}}
    )
    """Requests and limits of the sidecar beside it."""

    tracing: Mapping[str, str] = field(default_factory=dict)
    """Variables of OpenTelemetry's SDK (OTEL_*) for model pods; without any, they export no traces."""

    service_url: Callable[[str, str], str] = cluster_url
    """(namespace, Service) -> the address that status shows."""
