"""The container of a pod that serves a model: `spec.container`, and what it shares with Modelyard's own."""

from __future__ import annotations

import math

from modelyard_runtime.contract import ARTIFACT_DIR, VOLUME_MOUNT

from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.pods import Container
from modelyard_operator.api.schema import parse_duration
from modelyard_operator.manifests.common import CONTAINER_SECURITY, RUNTIME_CONTAINER, Object

__all__ = ["own_container", "probe", "resources"]


def own_container(spec: ModelDeploymentSpec, container: Container, *, deadline: int) -> Object:
    """Return the container that a user wrote, with what rollouts rely on.

    Args:
        spec: the ModelDeployment's.
        container: its `container`.
        deadline: seconds that a start may take.
    """
    ports = [("http", container.port), *([("grpc", container.grpc_port)] if container.grpc_port else [])]
    numbers = dict(container.model_dump(mode="json", by_alias=True, exclude_unset=True))
    drain = math.ceil(parse_duration(spec.serving.drain_delay))
    result: Object = {
        "name": RUNTIME_CONTAINER,
        **{field: numbers[field] for field in ("image", "command", "args", "env") if field in numbers},
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "startupProbe": probe(container.readiness_path, period=1, failures=deadline),
        "readinessProbe": probe(container.readiness_path, period=2, failures=2),
        # Images drop their file system's writability, not their right to write: that many of them need.
        "securityContext": {key: CONTAINER_SECURITY[key] for key in ("allowPrivilegeEscalation", "capabilities")},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if drain > 0:
        # The server may stop at SIGTERM at once: it comes when routers and balancers no longer send.
        result["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    if spec.model is not None:
        mount = {"name": "model", "mountPath": VOLUME_MOUNT, "subPath": ARTIFACT_DIR, "readOnly": True}
        result["volumeMounts"] = [mount]
    return result | resources(spec)


def resources(spec: ModelDeploymentSpec) -> Object:
    """Return a container's `resources`, if the spec has any."""
    return {"resources": spec.resources.model_dump(by_alias=True)} if spec.resources else {}


def probe(path: str | None, *, period: int, failures: int) -> Object:
    """Return a probe of the port `http`: by a GET, or without a path whether it is open."""
    action: Object = {"tcpSocket": {"port": "http"}} if path is None else {"httpGet": {"path": path, "port": "http"}}
    return {**action, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
