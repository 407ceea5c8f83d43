"""The custom kinds: their names, typed specs and the columns of `get`, the same in a cluster and on one machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from modelyard_operator.api.abtest import ABTestSpec, ABTestStatus
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from modelyard_operator.api.schema import NAME_LENGTH, NAME_PATTERN, FieldError, InvalidManifest, Spec

__all__ = ["API_GROUP", "API_VERSION", "CUSTOM_KINDS", "GROUP_VERSION", "Column", "CustomKind", "parse_manifest"]

API_GROUP = "modelyard.dev"
API_VERSION = "v1alpha1"
GROUP_VERSION = f"{API_GROUP}/{API_VERSION}"


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    json_path: str
    type: str = "string"


@dataclass(frozen=True)
class CustomKind:
    """A custom resource."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[Spec]
    status: type[Spec]
    columns: tuple[Column, ...]
    scalable: bool = False


_READY = '.status.conditions[?(@.type=="Ready")]'
_TAIL = (
    Column("Ready", f"{_READY}.status"),
    Column("Reason", f"{_READY}.reason"),
    Column("Age", ".metadata.creationTimestamp", "date"),
)

CUSTOM_KINDS = {
    "ModelDeployment": CustomKind(
        kind="ModelDeployment",
        plural="modeldeployments",
        short_name="mdep",
        description="One model, served by a Deployment and a Service.",
        spec=ModelDeploymentSpec,
        status=ModelDeploymentStatus,
        columns=(Column("URL", ".status.url"), Column("Version", ".status.model.version"), *_TAIL),
        scalable=True,
    ),
    "ABTest": CustomKind(
        kind="ABTest",
        plural="abtests",
        short_name="abt",
        description="Traffic split between two or more ModelDeployments by a salted hash of a request header.",
        spec=ABTestSpec,
        status=ABTestStatus,
        columns=(Column("Phase", ".status.phase"), Column("Weights", ".status.weightsSummary"), *_TAIL),
    ),
}


def parse_manifest(manifest: dict[str, Any]) -> Spec:
    """Check a whole custom resource as the API server would, and return its typed spec.

    Raises:
        InvalidManifest: with the field paths that the API server gives.
    """
    kind = CUSTOM_KINDS.get(str(manifest.get("kind")))
    if kind is None:
        raise InvalidManifest(
            [FieldError("kind", f"must be one of {', '.join(CUSTOM_KINDS)}, not {manifest.get('kind')!r}")]
        )
    if manifest.get("apiVersion") != GROUP_VERSION:
        raise InvalidManifest(
            [FieldError("apiVersion", f"must be {GROUP_VERSION}, not {manifest.get('apiVersion')!r}")]
        )
    errors = [*_unknown_fields(manifest), *_name_errors(manifest.get("metadata"))]
    try:
        spec = kind.spec.parse(manifest["spec"]) if "spec" in manifest else _missing_spec()
    except InvalidManifest as error:
        raise InvalidManifest([*errors, *error.errors]) from None
    if errors:
        raise InvalidManifest(errors)
    return spec


def _missing_spec() -> NoReturn:
    raise InvalidManifest([FieldError("spec", "is required")])


def _unknown_fields(manifest: dict[str, Any]) -> list[FieldError]:
    known = ("apiVersion", "kind", "metadata", "spec", "status")
    return [
        FieldError(field, "unknown field: check its spelling and the indentation")
        for field in manifest
        if field not in known
    ]


def _name_errors(metadata: Any) -> list[FieldError]:

    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        return [FieldError("metadata.name", "is required")]
    if len(name) > NAME_LENGTH or not re.match(NAME_PATTERN, name):
        return [
            FieldError(
                "metadata.name", f"must be at most {NAME_LENGTH} characters of a-z, 0-9 and -, starting with a letter"
            )
        ]
    return []
