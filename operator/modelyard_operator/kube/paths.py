"""The kinds that the operator touches: their URLs, and what of each is watched and kept."""

from __future__ import annotations

from modelyard_operator.api.kinds import CUSTOM_KINDS, GROUP_VERSION
from modelyard_operator.manifests.common import LABEL_COMPONENT

__all__ = ["collection_path", "path_of", "watched_kinds"]

_PREFIXES = {
    "Deployment": ("apis/apps/v1", "deployments"),
    "Service": ("api/v1", "services"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Pod": ("api/v1", "pods"),
    "ControllerRevision": ("apis/apps/v1", "controllerrevisions"),
    "HorizontalPodAutoscaler": ("apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    **{kind.kind: (f"apis/{GROUP_VERSION}", kind.plural) for kind in CUSTOM_KINDS.values()},
}
_CHILDREN = (
    "Deployment",
    "Service",
    "ConfigMap",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "ControllerRevision",
    "Pod",
)


def collection_path(kind: str, namespace: str = "") -> str:
    """Return the path of all objects of a kind, in a namespace or (without one) in all of them."""
    prefix, plural = _PREFIXES[kind]
    return f"/{prefix}/namespaces/{namespace}/{plural}" if namespace else f"/{prefix}/{plural}"


def path_of(kind: str, namespace: str, name: str, subresource: str = "") -> str:
    """Return the path of an object or a subresource."""
    path = f"{collection_path(kind, namespace)}/{name}"
    return f"{path}/{subresource}" if subresource else path


def watched_kinds() -> dict[str, str]:
    """Return kind -> label selector of what the operator watches.

    Children by the label that each carries, so that the API server never sends the objects of others.
    """
    return {**dict.fromkeys(CUSTOM_KINDS, ""), **dict.fromkeys(_CHILDREN, LABEL_COMPONENT)}
