"""What every child shares: labels, the owner reference, security contexts, names of things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from modelyard_runtime.contract import GRPC_PORT, HTTP_PORT, METRICS_PATH

from modelyard_operator.api.kinds import GROUP_VERSION

__all__ = [
    "COMPONENT_ROUTER",
    "COMPONENT_RUNTIME",
    "CONTAINER_SECURITY",
    "LABEL_COMPONENT",
    "LABEL_NAME",
    "LABEL_REVISION",
    "Object",
    "child_metadata",
    "deployment",
    "pod_security",
    "revision_of",
    "scrape_annotations",
    "selector_labels",
    "service",
]

Object = dict[str, Any]

LABEL_COMPONENT = "modelyard.dev/component"
LABEL_NAME = "modelyard.dev/name"
LABEL_REVISION = "modelyard.dev/revision"  # on pods only: tells those of the newest template from the others
COMPONENT_RUNTIME = "runtime"
COMPONENT_ROUTER = "router"

_USER = 65532  # "nonroot" by convention; images that start as root (Envoy's own) need it said
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def pod_security() -> Object:
    """Return the pod's security context: what the `restricted` Pod Security Standard asks for."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def selector_labels(component: str, name: str) -> dict[str, str]:
    """Return the labels that selectors use. A Deployment's selector can never change: neither may these."""
    return {LABEL_COMPONENT: component, LABEL_NAME: name}


def labels(component: str, name: str) -> dict[str, str]:
    """Return the selector's labels, and those that are there for people."""
    return {
        **selector_labels(component, name),
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "modelyard",
    }


def child_metadata(owner: Object, component: str, name: str) -> Object:
    """Return the metadata of a child of a custom resource: deleted with it, and never claimed by another."""
    metadata = owner["metadata"]
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": labels(component, metadata["name"]),
        "ownerReferences": [
            {
                "apiVersion": GROUP_VERSION,
                "kind": owner["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def scrape_annotations(port: int, path: str = METRICS_PATH) -> dict[str, str]:
    """Return the annotations by which Prometheus' usual pod discovery finds the metrics."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": path}


def revision_of(template: Object) -> str:
    """Return a short hash of a pod template, the same for the same template in every process."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def deployment(
    owner: Object,
    component: str,
    name: str,
    *,
    replicas: int,
    pod_spec: Object,
    annotations: Mapping[str, str],
) -> Object:
    """Return a Deployment that never takes a pod away before its successor is ready; annotations are the pods'."""
    owner_name = owner["metadata"]["name"]
    pod_labels = labels(component, owner_name)
    template: Object = {
        "metadata": {"labels": pod_labels, "annotations": dict(annotations)},
        "spec": pod_spec,
    }
    template["metadata"]["labels"] = {**pod_labels, LABEL_REVISION: revision_of(template)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(owner, component, name),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": selector_labels(component, owner_name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": template,
        },
    }


def service(owner: Object, component: str, name: str, *, headless: bool = False, grpc: bool = False) -> Object:
    """Return a Service over the pods of a custom resource; headless ones are what routers resolve.

    With `grpc`, also for the pods' port of that name: h2c, so that meshes and gateways balance by request.
    """
    spec: Object = {
        "selector": selector_labels(component, owner["metadata"]["name"]),
        "ports": [
            {
                "name": "http",
                "port": HTTP_PORT if headless else 80,
                "targetPort": "http",
                "protocol": "TCP",
                "appProtocol": "http",
            }
        ],
    }
    if grpc:
        spec["ports"].append(
            {
                "name": "grpc",
                "port": GRPC_PORT,
                "targetPort": "grpc",
                "protocol": "TCP",
                "appProtocol": "kubernetes.io/h2c",
            }
        )
    if headless:
        spec["clusterIP"] = "None"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(owner, component, name),
        "spec": spec,
    }
