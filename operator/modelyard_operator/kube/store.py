"""The store of objects that the watches delivered, so that reconcile reads it here and asks the API server for nothing.

Objects are kept as JSON text and without what nobody reads: a tenth of the memory of dicts, and every reader gets a
copy of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from modelyard_operator.kube.ownership import applied_fields
from modelyard_operator.manifests.common import LABEL_NAME
from modelyard_operator.reconcile.verbs import Object

__all__ = ["FIELD_MANAGER", "Store", "trimmed"]

FIELD_MANAGER = "modelyard"

_METADATA = (
    *("name", "namespace", "uid", "generation", "labels", "annotations", "ownerReferences", "finalizers"),
    *("creationTimestamp", "deletionTimestamp"),
)
_POD_STATUS = ("phase", "podIP", "conditions", "initContainerStatuses", "containerStatuses")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class _Entry(NamedTuple):
    version: int
    text: str
    label: str


class Store:
    """Holds the newest version seen of each object, by kind, namespace and name.

    A watch delivers versions in order, and the answers to our own writes come beside it: whichever is newer stays.
    Resource versions are compared as numbers, as KEP-5504 allows for.
    """

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], _Entry]] = defaultdict(dict)
        self._names: dict[tuple[str, str, str], set[str]] = defaultdict(set)  # (kind, namespace, label) -> names
        self._positions: dict[tuple[str, str], int] = {}  # (kind, namespace or "" for all) -> what the watch has passed

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return a copy of an object, or None."""
        entry = self._objects[kind].get((namespace, name))
        return None if entry is None else _object(entry)

    def select(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return copies of the objects in a namespace that carry all these labels, `modelyard.dev/name` among them."""
        names = self._names.get((kind, namespace, labels[LABEL_NAME]), set())
        objects = [_object(self._objects[kind][namespace, name]) for name in sorted(names)]
        return [obj for obj in objects if labels.items() <= obj["metadata"].get("labels", {}).items()]

    def count(self) -> int:
        """Return the number of objects."""
        return sum(map(len, self._objects.values()))

    def deliver(self, kind: str, scope: str, obj: Object, *, deleted: bool = False) -> bool:
        """Take an event of a watch; return whether anything that is kept has changed.

        Args:
            kind: the watch's.
            scope: the namespace that the watch is about; empty for all.
            obj: as it came.
            deleted: whether it went, or no longer matches the watch's selector.
        """
        version = int(obj["metadata"]["resourceVersion"])
        self.pass_by(kind, scope, version)
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        if not deleted:
            return self._put(kind, key, obj, version)
        before = self._objects[kind].get(key)
        if before is None or before.version > version:
            return False
        self._drop(kind, key)
        return True

    def put(self, kind: str, obj: Object) -> bool:
        """Take an object of a list; return whether anything that is kept has changed."""
        metadata = obj["metadata"]
        return self._put(kind, (metadata["namespace"], metadata["name"]), obj, int(metadata["resourceVersion"]))

    def position(self, kind: str, scope: str) -> str:
        """Return the resource version from which a watch goes on; empty before the first list."""
        version = self._positions.get((kind, scope))
        return "" if version is None else str(version)

    def pass_by(self, kind: str, scope: str, version: int) -> None:
        """Take note of a watch's position: all events up to there have come."""
        self._positions[kind, scope] = version

    def remember(self, kind: str, scope: str, obj: Object) -> None:
        """Take the answer to a write, unless the watch is past it: what is not here then was deleted since."""
        version = int(obj["metadata"]["resourceVersion"])
        if version > self._positions.get((kind, scope), 0):
            self._put(kind, (obj["metadata"]["namespace"], obj["metadata"]["name"]), obj, version)

    def forget_others(self, kind: str, scope: str, listed: Iterable[tuple[str, str]], version: int) -> list[Object]:
        """End a list at this version: drop what it did not hold, and return it."""
        self.pass_by(kind, scope, version)
        kept = set(listed)
        gone = [
            (key, entry)
            for key, entry in self._objects[kind].items()
            if scope in ("", key[0]) and key not in kept and entry.version <= version
        ]
        for key, _ in gone:
            self._drop(kind, key)
        return [_object(entry) for _, entry in gone]

    def _put(self, kind: str, key: tuple[str, str], obj: Object, version: int) -> bool:
        before = self._objects[kind].get(key)
        if before is not None and before.version >= version:
            return False
        kept = trimmed(kind, obj)
        text = json.dumps(kept, separators=(",", ":"))
        label = kept["metadata"].get("labels", {}).get(LABEL_NAME, "")
        if before is not None and before.label != label:
            self._drop(kind, key)
        self._objects[kind][key] = _Entry(version, text, label)
        self._names[kind, key[0], label].add(key[1])
        return before is None or before.text != text

    def _drop(self, kind: str, key: tuple[str, str]) -> None:
        entry = self._objects[kind].pop(key)
        names = self._names[kind, key[0], entry.label]
        names.discard(key[1])
        if not names:
            del self._names[kind, key[0], entry.label]


def _object(entry: _Entry) -> Object:
    obj: Object = json.loads(entry.text)
    return obj


def trimmed(kind: str, obj: Object) -> Object:
    """Return what reconcile reads of an object. `managedFields` is cut down to what we own of it by applying it."""
    metadata = {key: value for key, value in obj["metadata"].items() if key in _METADATA}
    if _LAST_APPLIED in metadata.get("annotations", {}):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != _LAST_APPLIED}
    if kind in _CONTENT:
        kept = {"kind": kind, "metadata": metadata, **_CONTENT[kind](obj)}
        fields = applied_fields(obj, FIELD_MANAGER)
        if fields:
            metadata["managedFields"] = [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}]
        return kept
    return {**obj, "kind": kind, "metadata": metadata}


def _of_deployment(obj: Object) -> Object:
    spec = {key: value for key, value in obj["spec"].items() if key in ("replicas", "paused")}
    return {
        "spec": {**spec, "template": {"metadata": obj["spec"]["template"].get("metadata", {})}},
        "status": obj.get("status", {}),
    }


def _of_autoscaler(obj: Object) -> Object:
    active = [
        {key: condition.get(key) for key in ("type", "status", "reason", "message")}
        for condition in obj.get("status", {}).get("conditions", ())
        if condition["type"] == "ScalingActive"
    ]
    return {"status": {"conditions": active}}


def _of_pod(obj: Object) -> Object:
    status = obj.get("status", {})
    return {"status": {key: status[key] for key in _POD_STATUS if key in status}}


_CONTENT: Mapping[str, Callable[[Object], Object]] = {
    "Deployment": _of_deployment,
    "Service": lambda _obj: {},
    "HorizontalPodAutoscaler": _of_autoscaler,
    "PodDisruptionBudget": lambda _obj: {},
    "ConfigMap": lambda obj: {"data": obj.get("data", {})},
    "Pod": _of_pod,
}
