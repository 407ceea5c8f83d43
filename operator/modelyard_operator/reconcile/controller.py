"""Events in, reconciles out: which key an event concerns, and what runs for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.manifests.common import COMPONENT_ROUTER, COMPONENT_RUNTIME, LABEL_COMPONENT, LABEL_NAME
from modelyard_operator.manifests.settings import Settings
from modelyard_operator.reconcile.abtest import reconcile_abtest
from modelyard_operator.reconcile.children import OtherOperator
from modelyard_operator.reconcile.conditions import StatusWriter
from modelyard_operator.reconcile.context import Context
from modelyard_operator.reconcile.modeldeployment import reconcile_model_deployment
from modelyard_operator.reconcile.queue import WorkQueue
from modelyard_operator.reconcile.routers import RouterPoll
from modelyard_operator.reconcile.verbs import Cluster, ClusterError, Object

__all__ = ["Controller", "Key", "Observer"]

_OTHER_SECONDS = 15.0
_KIND_OF = {COMPONENT_RUNTIME: "ModelDeployment", COMPONENT_ROUTER: "ABTest"}
_RECONCILERS = {"ModelDeployment": reconcile_model_deployment, "ABTest": reconcile_abtest}


@dataclass(frozen=True)
class Key:
    """A custom resource, by name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Observer(Protocol):
    """Is told of every reconcile; metrics are made of it."""

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Take note of one reconcile: `result` is ok, retry or error."""
        ...

    def stood_back(self, kind: str) -> None:
        """Take note that an object was left to the operator of another installation."""
        ...


class Controller:
    """Reconciles every custom resource that an event concerns.

    Call `on_event` for each change that a watch delivers, of custom resources and of their children; run `run()`.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        now: Callable[[], datetime],
        *,
        workers: int = 8,
        logger: logging.Logger | None = None,
    ) -> None:
        self._cluster = cluster
        self._routers = RouterPoll(cluster.router_state, lambda *name: self.enqueue("ABTest", *name))
        self._status = StatusWriter(cluster, time.monotonic)
        self._context = Context(cluster, settings, now, self._status, self._routers)
        self._observer: Observer | None = None
        self._log = logger or logging.getLogger("modelyard.operator")
        self._said: set[str] = set()
        self._tests_of: dict[Key, frozenset[Key]] = {}  # ABTest -> the ModelDeployments it names
        self.queue: WorkQueue[Key] = WorkQueue(self._work, workers=workers)

    def observe(self, observer: Observer) -> None:
        """Tell this observer of every reconcile from now on."""
        self._observer = observer

    def on_event(self, kind: str, obj: Object, deleted: bool = False) -> None:
        """Take note that an object was added, changed or deleted. Never blocks, never fails on strange objects."""
        metadata = obj.get("metadata", {})
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        if kind in CUSTOM_KINDS:
            key = Key(kind, namespace, name)
            self._remember(key, obj, deleted=deleted)
            self.queue.add(key)
            self._wake_tests(key)
            return
        # By label rather than by owner: between a pod and its custom resource stand a ReplicaSet and a Deployment. A
        # label that lies costs one reconcile that changes nothing.
        labels = metadata.get("labels", {})
        owner_kind = _KIND_OF.get(labels.get(LABEL_COMPONENT, ""))
        if owner_kind is not None and LABEL_NAME in labels:
            self.enqueue(owner_kind, namespace, labels[LABEL_NAME])

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        """Reconcile a custom resource soon."""
        self.queue.add(Key(kind, namespace, name))

    async def run(self) -> None:
        """Reconcile until cancelled."""
        try:
            await self.queue.run()
        finally:
            self._routers.close()

    def _remember(self, key: Key, obj: Object, *, deleted: bool) -> None:
        if key.kind != "ABTest":
            return
        if deleted:
            self._tests_of.pop(key, None)
            return
        variants = obj.get("spec", {}).get("variants", [])
        names = {variant.get("modelDeployment", "") for variant in variants}
        self._tests_of[key] = frozenset(Key("ModelDeployment", key.namespace, name) for name in names)

    def _wake_tests(self, model: Key) -> None:
        """Reconcile the ABTests that name a ModelDeployment."""
        for test, models in self._tests_of.items():
            if model in models:
                self.queue.add(test)

    async def _work(self, key: Key) -> float | None:
        started = time.monotonic()
        try:
            after = await self._reconcile(key)
        except ClusterError as error:
            self._report(key, "retry", started)
            self._log.warning("%s: %s; trying again", key, error)
            raise
        except Exception:
            self._report(key, "error", started)
            self._log.exception("%s: this is a fault of the operator; trying again", key)
            raise
        self._report(key, "ok", started)
        # No event need tell of a status that was just written here: the store has it from the answer already.
        self._wake_tests(key)
        return after

    async def _reconcile(self, key: Key) -> float | None:
        owner = await self._cluster.get(key.kind, key.namespace, key.name)
        if owner is None or owner["metadata"].get("deletionTimestamp"):
            self._status.forget(key.kind, key.namespace, key.name)
            if key.kind == "ABTest":
                self._routers.forget(key.namespace, key.name)
            return None  # owner references delete the children
        try:
            return await _RECONCILERS[key.kind](self._context, owner)
        except OtherOperator as error:
            if self._observer is not None:
                self._observer.stood_back(key.kind)
            if str(error) not in self._said:
                self._said.add(str(error))
                self._log.warning("%s: OtherOperator: %s, and this one stands back from all that is so", key, error)
            return _OTHER_SECONDS

    def _report(self, key: Key, result: str, started: float) -> None:
        if self._observer is not None:
            self._observer.reconciled(key.kind, result, time.monotonic() - started)
