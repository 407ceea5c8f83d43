"""ModelDeployment -> HorizontalPodAutoscaler and PodDisruptionBudget."""

from __future__ import annotations

from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.pods import Autoscaling
from modelyard_operator.manifests.common import (
    COMPONENT_RUNTIME,
    RUNTIME_CONTAINER,
    Object,
    child_metadata,
    selector_labels,
)

__all__ = ["scaling"]


def scaling(owner: Object, spec: ModelDeploymentSpec) -> list[Object]:
    """Return what changes the number of a ModelDeployment's pods, and what limits its disruption; often nothing."""
    most = spec.replicas if spec.autoscaling is None else spec.autoscaling.max_replicas
    children = [] if spec.autoscaling is None else [_autoscaler(owner, spec.autoscaling)]
    if most is not None and most > 1:  # of a single pod, a budget would only stop a node from being drained
        children.append(_disruption_budget(owner))
    return children


def _autoscaler(owner: Object, autoscaling: Autoscaling) -> Object:
    name = owner["metadata"]["name"]
    # Of the runtime alone: a sidecar that requests no CPU would leave the pod without a share to speak of.
    metric = {
        "name": "cpu",
        "container": RUNTIME_CONTAINER,
        "target": {"type": "Utilization", "averageUtilization": autoscaling.target_cpu_utilization},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": child_metadata(owner, COMPONENT_RUNTIME, name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": [{"type": "ContainerResource", "containerResource": metric}],
        },
    }


def _disruption_budget(owner: Object) -> Object:
    name = owner["metadata"]["name"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(owner, COMPONENT_RUNTIME, name),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector_labels(COMPONENT_RUNTIME, name)},
            # Pods that do not serve hold up no drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
