"""ModelDeployment -> ControllerRevision: a spec that was Ready once, to go back to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelyard_operator.manifests.common import COMPONENT_RUNTIME, Object, child_metadata, revision_of

__all__ = ["KEPT_REVISIONS", "is_of_spec", "newest_first", "revision", "spec_of_revision"]

KEPT_REVISIONS = 10
_OF_NOW = ("replicas", "autoscaling")
"""How many pods there are is no matter of a version: what the spec says now goes for an older one as well."""


def revision(owner: Object) -> Object:
    """Return the ControllerRevision of a ModelDeployment's spec; of the same spec again, it moves to the front."""
    data = _versioned(owner["spec"])
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": child_metadata(owner, COMPONENT_RUNTIME, _name(owner)),
        "data": {"spec": data},
        "revision": owner["metadata"]["generation"],
    }


def newest_first(revisions: Iterable[Object]) -> list[Object]:
    """Return ControllerRevisions, that of the spec that was Ready last at the front."""
    return sorted(revisions, key=lambda obj: int(obj["revision"]), reverse=True)


def is_of_spec(obj: Object, owner: Object) -> bool:
    """Return whether a ControllerRevision is that of a ModelDeployment's present spec."""
    return bool(obj["metadata"]["name"] == _name(owner))


def spec_of_revision(obj: Object, owner: Object) -> dict[str, Any]:
    """Return the spec that a ControllerRevision holds, with the number of pods of the present one."""
    return {**obj["data"]["spec"], **{key: owner["spec"][key] for key in _OF_NOW if key in owner["spec"]}}


def _versioned(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in _OF_NOW}


def _name(owner: Object) -> str:
    return f"{owner['metadata']['name']}-{revision_of(_versioned(owner['spec']))}"
