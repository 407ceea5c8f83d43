"""The objects of one installation, in the form of the Kubernetes API.

Custom resources are kept in the database; children (Deployments, Services, ConfigMaps, Pods) live in memory, since the
same reconcile that rendered them renders them anew. All calls are synchronous and belong to one event loop, so that no
caller sees a change half done.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.reconcile.conditions import timestamp

from modelyard_local.database import Database
from modelyard_local.objects import HEADLESS, Key, Object, is_terminating, key_of, matches, owner_uids

__all__ = ["Change", "OperationResult", "Store"]

OperationResult = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True)
class Change:
    """Something happened to an object; `previous` is what it was before."""

    what: Literal["created", "configured", "status", "deleted"]
    object: Object
    previous: Object | None = None


class Store:
    """Holds objects and tells subscribers of every change."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._objects: dict[Key, Object] = {key_of(obj): obj for obj in database.resources()}
        versions = (int(obj["metadata"]["resourceVersion"]) for obj in self._objects.values())
        self._version = max(versions, default=0)
        self._subscribers: list[Callable[[Change], None]] = []
        self._service_address: Callable[[str, str], str] = lambda _namespace, _name: HEADLESS
        self._service_port: Callable[[int], int] = int

    def subscribe(self, subscriber: Callable[[Change], None]) -> None:
        """Call this with every change from now on; it must be quick and must not raise."""
        self._subscribers.append(subscriber)

    def give_addresses(self, address: Callable[[str, str], str], port: Callable[[int], int] = int) -> None:
        """Take the addresses of Services, by namespace and name, from here, and the ports that stand for theirs."""
        self._service_address = address
        self._service_port = port

    def find(self, key: Key) -> Object | None:
        """Return a copy of an object, or None."""
        return copy.deepcopy(self._objects.get(key))

    def select(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return copies of the objects of a kind, by name; of all namespaces unless one is given."""
        found = [
            obj
            for key, obj in self._objects.items()
            if key.kind == kind and namespace in (None, key.namespace) and matches(obj, labels or {})
        ]
        return copy.deepcopy(sorted(found, key=key_of))

    def has_uid(self, uid: str) -> bool:
        """Return whether a living object has this uid."""
        return any(obj["metadata"]["uid"] == uid for obj in self._objects.values())

    def put(self, manifest: Object) -> tuple[Object, OperationResult]:
        """Create an object or replace what the manifest says of it; return it, and what happened.

        Identity and status stay; the generation rises when something besides metadata and status changed.
        """
        obj = copy.deepcopy(manifest)
        key = key_of(obj)
        if key.kind == "Service" and obj["spec"].get("clusterIP") != HEADLESS:
            obj["spec"]["clusterIP"] = self._service_address(key.namespace, key.name)
            for port in obj["spec"]["ports"]:
                listening = self._service_port(port["port"])
                if listening != port["port"]:  # where Kubernetes says that another port stands for it
                    port["nodePort"] = listening
        before = self._objects.get(key)
        metadata = obj["metadata"]
        if before is None:
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp(self._now()), "generation": 1}
            obj.pop("status", None)
            self._keep(obj)
            self._tell(Change("created", obj))
            return copy.deepcopy(obj), "created"
        kept = ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp")
        metadata |= {name: before["metadata"][name] for name in kept if name in before["metadata"]}
        obj |= {"status": before["status"]} if "status" in before else {}
        if obj == before:
            return copy.deepcopy(obj), "unchanged"
        if _content(obj) != _content(before):
            metadata["generation"] += 1
        self._keep(obj)
        self._tell(Change("configured", obj, before))
        return copy.deepcopy(obj), "configured"

    def put_status(self, key: Key, uid: str, status: Object) -> None:
        """Replace an object's status; nothing happens when it vanished or says so already."""
        before = self._objects.get(key)
        if before is None or before["metadata"]["uid"] != uid or before.get("status") == status:
            return
        obj = {**before, "metadata": dict(before["metadata"]), "status": copy.deepcopy(status)}
        self._keep(obj)
        self._tell(Change("status", obj, before))

    def annotate(self, key: Key, annotations: Mapping[str, str]) -> None:
        """Merge annotations into an object; nothing happens when it vanished."""
        before = self._objects.get(key)
        if before is None:
            return
        merged = before["metadata"].get("annotations", {}) | dict(annotations)
        if merged == before["metadata"].get("annotations"):
            return
        obj = {**before, "metadata": {**before["metadata"], "annotations": merged}}
        self._keep(obj)
        self._tell(Change("configured", obj, before))

    def remove(self, key: Key, uid: str | None = None) -> bool:
        """Delete an object and what it owns; return whether there was one (with this uid, where one is given).

        A Pod is only marked: its processes end first, then `purge` takes it away.
        """
        before = self._objects.get(key)
        if before is None or uid not in (None, before["metadata"]["uid"]):
            return False
        if key.kind == "Pod":
            self._mark(before)
        else:
            self.purge(key)
        return True

    def purge(self, key: Key) -> None:
        """Take an object away at once, and delete what it owns."""
        obj = self._objects.pop(key, None)
        if obj is None:
            return
        if key.kind in CUSTOM_KINDS:
            self._database.forget(key)
        self._tell(Change("deleted", obj))
        uid = obj["metadata"]["uid"]
        for child in [child for child, other in self._objects.items() if uid in owner_uids(other)]:
            self.remove(child)

    def _mark(self, before: Object) -> None:
        if is_terminating(before):
            return
        obj = {**before, "metadata": {**before["metadata"], "deletionTimestamp": timestamp(self._now())}}
        self._keep(obj)
        self._tell(Change("configured", obj, before))

    def _keep(self, obj: Object) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        key = key_of(obj)
        self._objects[key] = obj
        if key.kind in CUSTOM_KINDS:
            self._database.save(obj)

    def _tell(self, change: Change) -> None:
        shared = copy.deepcopy(change)
        for subscriber in self._subscribers:
            subscriber(shared)


def _content(obj: Object) -> Object:
    return {name: value for name, value in obj.items() if name not in ("metadata", "status")}
