"""Keys, labels and owners of objects in the form of the Kubernetes API. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelyard_operator.reconcile.pods import is_ready
from modelyard_operator.reconcile.verbs import Object

__all__ = [
    "HEADLESS",
    "Key",
    "Object",
    "controller_uid",
    "is_ready",
    "is_terminating",
    "key_of",
    "matches",
    "owner_uids",
]

HEADLESS = "None"  # the clusterIP of a headless Service


class Key(NamedTuple):
    """The kind, namespace and name of an object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        name = f"{self.kind.lower()}/{self.name}"
        return name if self.namespace == "default" else f"{name} -n {self.namespace}"


def key_of(obj: Object) -> Key:
    """Return an object's key."""
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def matches(obj: Object, labels: Mapping[str, str]) -> bool:
    """Return whether an object carries all these labels."""
    have = obj["metadata"].get("labels", {})
    return all(have.get(name) == value for name, value in labels.items())


def owner_uids(obj: Object) -> list[str]:
    """Return the uids of an object's owners."""
    return [reference["uid"] for reference in obj["metadata"].get("ownerReferences", [])]


def controller_uid(obj: Object) -> str | None:
    """Return the uid of the controlling owner, or None."""
    references = obj["metadata"].get("ownerReferences", [])
    return next((reference["uid"] for reference in references if reference.get("controller")), None)


def is_terminating(obj: Object) -> bool:
    """Return whether an object is on its way out."""
    return "deletionTimestamp" in obj["metadata"]
