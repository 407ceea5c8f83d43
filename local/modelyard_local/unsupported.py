"""The kinds and fields that local mode does not support: said once by name, not passed over in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelyard_operator.manifests.common import RUNTIME_CONTAINER

from modelyard_local.objects import Object

__all__ = ["NO_IMAGE", "runs_here", "unsupported_in"]

NO_IMAGE = "none: processes of this machine"
"""The image of the containers whose programs are on this machine."""

_PROBE = dict.fromkeys(
    ("httpGet", "tcpSocket", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold")
) | {"failureThreshold": None}
_CONTAINER: Mapping[str, object] = {
    **dict.fromkeys(("name", "image", "imagePullPolicy", "command", "args", "env", "ports")),
    "envFrom": {"secretRef": {"name": None}},
    **dict.fromkeys(("restartPolicy", "terminationMessagePolicy")),
    "volumeMounts": {"name": None, "mountPath": None, "subPath": None, "readOnly": None},
    "lifecycle": {"preStop": {"httpGet": None, "sleep": None}},
    **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), _PROBE),
}
_POD: Mapping[str, object] = {
    "initContainers": _CONTAINER,
    "containers": _CONTAINER,
    "volumes": {"name": None, "emptyDir": {}, "configMap": {"name": None}, "persistentVolumeClaim": None},
    **dict.fromkeys(("terminationGracePeriodSeconds", "automountServiceAccountToken", "enableServiceLinks")),
    **dict.fromkeys(("imagePullSecrets", "restartPolicy", "serviceAccountName", "topologySpreadConstraints")),
}
_KNOWN: Mapping[str, Mapping[str, object]] = {
    "Deployment": {
        **dict.fromkeys(("replicas", "revisionHistoryLimit", "progressDeadlineSeconds", "selector", "minReadySeconds")),
        "strategy": {"type": None, "rollingUpdate": None},
        "template": {"metadata": None, "spec": _POD},
    },
    "Service": {"selector": None, "clusterIP": None, "ports": None},
    "ConfigMap": {},
    "ControllerRevision": {},
}


def unsupported_in(obj: Object) -> list[str]:
    """Return the names of a child's unsupported kinds and fields, such as `containers.resources`."""
    known = _KNOWN.get(obj["kind"])
    if known is None:
        return [obj["kind"]]
    names = {path.removeprefix("template.spec.") for path in _unknown(obj.get("spec", {}), known, "")}
    return sorted(names | set(_images(obj.get("spec", {}).get("template", {}).get("spec", {}))))


def runs_here(container: Object) -> bool:
    """Return whether a container is started: its command is, on this machine; a sidecar's image alone can't be."""
    return bool(container.get("command")) or container["name"] == RUNTIME_CONTAINER


def _images(pod_spec: Object) -> Iterator[str]:
    for field in ("initContainers", "containers"):
        for container in pod_spec.get(field, []):
            if not runs_here(container):
                yield f"{field}[{container['name']}]"
            elif container.get("image", NO_IMAGE) != NO_IMAGE:
                yield f"{field}[{container['name']}].image"


def _unknown(value: object, known: object, path: str) -> Iterator[str]:
    if known is None:  # used, or without a meaning here (images, tokens)
        return
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item, known, path)
    elif isinstance(value, dict) and isinstance(known, Mapping):
        for name, child in value.items():
            below = f"{path}.{name}".lstrip(".")
            if name not in known:
                yield below
            else:
                yield from _unknown(child, known[name], below)
