"""What every child shares: labels, the owner reference, security contexts, names of things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.contract import GRPC_PORT, HTTP_PORT, METRICS_PATH

from modelyard_operator.api.kinds import GROUP_VERSION

__all__ = [
    "COMPONENT_ROUTER",
    "COMPONENT_RUNTIME",
    "CONTAINER_SECURITY",
    "FETCH_CONTAINER",
    "LABEL_COMPONENT",
    "LABEL_NAME",
    "LABEL_REVISION",
    "RUNTIME_CONTAINER",
    "Object",
    "Ports",
    "Strategy",
    "child_metadata",
    "deployment",
    "pod_security",
    "pod_template",
    "revision_of",
    "scrape_annotations",
    "selector_labels",
    "service",
    "spread",
]

Object = dict[str, Any]

LABEL_COMPONENT = "modelyard.dev/component"
LABEL_NAME = "modelyard.dev/name"
LABEL_REVISION = "modelyard.dev/revision"  # on pods only: tells those of the newest template from the others
COMPONENT_RUNTIME = "runtime"
COMPONENT_ROUTER = "router"
RUNTIME_CONTAINER = "runtime"
FETCH_CONTAINER = "fetch"

_USER = 65532  # "nonroot" by convention; images that start as root (Envoy's own) need it said
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def pod_security(*, fixed_user: bool) -> Object:
    """Return the pod's security context: what the `restricted` Pod Security Standard asks for.

    Without a fixed user the ids are left to the cluster, as OpenShift's `restricted-v2` wants it.
    """
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), _USER) if fixed_user else {}
    return {
        "runAsNonRoot": True,
        **ids,
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


def spread(component: str, name: str) -> list[Object]:
    """Return the constraints that spread the pods of one template over zones and nodes, where there are several."""
    return [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector_labels(component, name)},
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def revision_of(template: Object) -> str:
    """Return a short hash of a pod template, the same for the same template in every process."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Strategy:
    """How a Deployment replaces its pods. By default it takes none away before its successor is ready."""

    max_surge: str | int = "25%"
    max_unavailable: str | int = 0
    progress_deadline: int = 600
    """Seconds."""


def pod_template(owner: Object, component: str, pod_spec: Object, annotations: Mapping[str, str]) -> Object:
    """Return the template of pods that a custom resource's selectors find; it has no revision yet."""
    return {
        "metadata": {"labels": labels(component, owner["metadata"]["name"]), "annotations": dict(annotations)},
        "spec": pod_spec,
    }


def deployment(
    owner: Object,
    component: str,
    name: str,
    *,
    replicas: int | None,
    template: Object,
    strategy: Strategy = Strategy(),
) -> Object:
    """Return a Deployment of a pod template; without `replicas`, that field is left to others."""
    metadata = template["metadata"]
    metadata = {**metadata, "labels": {**metadata["labels"], LABEL_REVISION: revision_of(template)}}
    rolling = {"maxSurge": strategy.max_surge, "maxUnavailable": strategy.max_unavailable}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(owner, component, name),
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": strategy.progress_deadline,
            "selector": {"matchLabels": selector_labels(component, owner["metadata"]["name"])},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {**template, "metadata": metadata},
        },
    }


@dataclass(frozen=True)
class Ports:
    """The ports of pods: `http`, and `grpc` where they speak it."""

    http: int = HTTP_PORT
    grpc: int | None = None


def service(owner: Object, component: str, name: str, ports: Ports, *, headless: bool = False) -> Object:
    """Return a Service over the pods of a custom resource; headless ones, with the pods' own ports, are for routers.

    gRPC is h2c, so that meshes and gateways balance by request.
    """
    spec: Object = {
        "selector": selector_labels(component, owner["metadata"]["name"]),
        "ports": [
            {
                "name": "http",
                "port": ports.http if headless else 80,
                "targetPort": "http",
                "protocol": "TCP",
                "appProtocol": "http",
            }
        ],
    }
    if ports.grpc is not None:
        spec["ports"].append(
            {
                "name": "grpc",
                "port": ports.grpc if headless else GRPC_PORT,
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
