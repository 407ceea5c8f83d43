"""What users change of a model's pods: `spec.podTemplate`, and the labels and annotations of the ModelDeployment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelyard_operator.api.pods import PodTemplate
from modelyard_operator.api.schema import FieldError, InvalidManifest
from modelyard_operator.manifests.common import FETCH_CONTAINER, RUNTIME_CONTAINER, Object
from modelyard_operator.manifests.merge_keys import POD_TEMPLATE_MERGE_KEYS
from modelyard_operator.manifests.strategic_merge import InvalidPatch, strategic_merge

__all__ = ["customized"]

_PATH = "spec.podTemplate"
_OF_TOOLS = (
    "modelyard.dev/",
    "kubectl.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "helm.sh/",
    "config.kubernetes.io/",
    "config.k8s.io/",
    "kapp.k14s.io/",
    "app.kubernetes.io/managed-by",
)
"""Beginnings of labels and annotations by which tools mark the very objects that they applied; not handed on, or they
would take the pods for theirs."""


def customized(template: Object, owner: Object, patch: PodTemplate | None, *, image: bool = True) -> Object:
    """Return the template with the custom resource's labels and annotations, and with the patch merged into it.

    Args:
        template: the rendered one.
        owner: the live custom resource.
        patch: `spec.podTemplate`.
        image: whether the patch may name the image of container `runtime`; else it is `spec.container` that does.

    Raises:
        InvalidManifest: the patch can't be merged, or changes what the operator, Services and routers rely on.
    """
    metadata = {
        field: {**_handed_on(owner["metadata"].get(field) or {}), **template["metadata"][field]}
        for field in ("labels", "annotations")
    }
    template = {**template, "metadata": metadata}
    if patch is None:
        return template
    try:
        merged = strategic_merge(template, patch.as_patch(), POD_TEMPLATE_MERGE_KEYS)
    except InvalidPatch as error:
        raise InvalidManifest([FieldError(f"{_PATH}.{error.path}", str(error))]) from None
    if not isinstance(merged.get("spec"), dict) or not merged["spec"]:
        raise InvalidManifest([FieldError(f"{_PATH}.spec", "can't be left out or replaced as a whole")])
    errors = [*_changes(template, merged), *_port_conflicts(template, merged)]
    if not image and _image(merged) != _image(template):
        errors.append(FieldError(f"{_PATH}.spec.containers[{RUNTIME_CONTAINER}].image", "set spec.container.image"))
    if errors:
        raise InvalidManifest(errors)
    return merged


def _handed_on(strings: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in strings.items() if not key.startswith(_OF_TOOLS)}


def _changes(before: Object, after: Object) -> Iterator[FieldError]:
    """Yield an error for each part that has to stay as it was rendered and did not."""
    now = {path: value for path, value, _ in _fixed(after)}
    for path, value, remedy in _fixed(before):
        if now.get(path) != value:
            yield FieldError(f"{_PATH}.{path}", remedy)


def _fixed(template: Object) -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and remedy of what users may not change."""
    spec = template["spec"]
    yield (
        "spec.terminationGracePeriodSeconds",
        spec.get("terminationGracePeriodSeconds"),
        "follows from spec.serving.drainDelay and spec.serving.limits.timeout: set those",
    )
    yield "spec.serviceAccountName", spec.get("serviceAccountName"), "set spec.serviceAccountName"
    for field, name in (("initContainers", FETCH_CONTAINER), ("containers", RUNTIME_CONTAINER)):
        for container in _objects(spec.get(field)):
            if container.get("name") == name:
                yield from _fixed_of_container(f"spec.{field}[{name}]", container)
    for volume in _objects(spec.get("volumes")):
        # How large it may grow and on what it lies is the user's; what it is, is not.
        yield f"spec.volumes[{volume.get('name')}]", sorted(volume), "is Modelyard's own: add one of another name"


def _fixed_of_container(path: str, container: Object) -> Iterator[tuple[str, Any, str]]:
    yield path, container["name"], "is Modelyard's own container and can't be left out"
    for field in ("command", "args"):
        yield (
            f"{path}.{field}",
            container.get(field),
            "can't be changed: spec.container is for a server of your own",
        )
    for field in ("startupProbe", "readinessProbe", "livenessProbe"):
        if field in container:
            yield f"{path}.{field}", container[field], "is Modelyard's own: rollouts rely on it, so it can't be changed"
    for port in _objects(container.get("ports")):
        yield f"{path}.ports[{port.get('containerPort')}]", port, "is what the Services send to, and can't be changed"
    for variable in _objects(container.get("env")):
        if str(variable.get("name")).startswith("MODELYARD_"):
            yield f"{path}.env[{variable['name']}]", variable, "follows from spec.model and spec.serving: set those"
    for mount in _objects(container.get("volumeMounts")):
        yield f"{path}.volumeMounts[{mount.get('mountPath')}]", mount, "is Modelyard's own and can't be changed"


def _port_conflicts(before: Object, after: Object) -> Iterator[FieldError]:
    """Yield an error for each port of another container that requests would find in place of the model's."""
    own = {
        value
        for container in before["spec"]["containers"]
        for port in container.get("ports", ())
        for value in (port["name"], port["containerPort"])
    }
    for field in ("initContainers", "containers"):
        for container in _objects(after["spec"].get(field)):
            if container.get("name") == RUNTIME_CONTAINER:
                continue
            for port in _objects(container.get("ports")):
                for value in [value for value in (port.get("name"), port.get("containerPort")) if value in own]:
                    yield FieldError(
                        f"{_PATH}.spec.{field}[{container.get('name')}].ports",
                        f"{value} is a port of the model: this container needs another name and number",
                    )


def _image(template: Object) -> Any:
    return [
        entry.get("image") for entry in _objects(template["spec"]["containers"]) if entry["name"] == RUNTIME_CONTAINER
    ]


def _objects(value: Any) -> list[Object]:
    """Return the objects of a list; what users wrote in its place, the API server refuses."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
