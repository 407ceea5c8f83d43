"""The Deployment controller: the wanted number of pods of the newest template, and a rolling update to get there.

The rules are those of Kubernetes' own controller, on pods directly: one machine needs no ReplicaSets between.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from modelyard_operator.reconcile.conditions import with_transition_times

from modelyard_local.objects import (
    Object,
    controller_uid,
    is_ready,
    is_terminating,
    key_of,
)
from modelyard_local.store import Change, Store

__all__ = ["DeploymentController", "Plan", "plan"]

_LOOK_SECONDS = 0.5
_LABEL_HASH = "pod-template-hash"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True)
class Plan:
    """The next step: how many new pods to make, and which to delete."""

    create: int
    delete: list[Object]


def plan(
    deployment: Object, new: list[Object], old: list[Object], available: Callable[[Object], bool] = is_ready
) -> Plan:
    """Return the next step of a rolling update.

    Never more than replicas + maxSurge pods, nor fewer than replicas - maxUnavailable available ones; pods of the old
    template that are not go first, since they serve nobody.
    """
    wanted = deployment["spec"]["replicas"]
    surge, unavailable = _bounds(deployment)
    total = len(new) + len(old)
    create = max(0, min(wanted - len(new), wanted + surge - total))
    excess = sorted(new, key=lambda pod: (available(pod), _age(pod)))[: max(0, len(new) - wanted)]
    serve = sum(map(available, (*new, *old)))
    least = wanted - unavailable
    starting = sum(not available(pod) for pod in new)
    spare = max(0, total - least - starting)
    broken = [pod for pod in old if not available(pod)][:spare]
    serving = sorted((pod for pod in old if available(pod)), key=_age)
    retired = serving[: max(0, min(serve - least, spare - len(broken)))]
    return Plan(create, [*excess, *broken, *retired])


def _bounds(deployment: Object) -> tuple[int, int]:
    """Return maxSurge, rounded up, and maxUnavailable, rounded down; never both zero, or nothing could move."""
    wanted = deployment["spec"]["replicas"]
    rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
    surge = _share(rolling.get("maxSurge", "25%"), wanted, math.ceil)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, math.floor)
    return (1, 0) if surge == unavailable == 0 else (surge, unavailable)


def _share(value: int | str, whole: int, rounded: Callable[[float], int]) -> int:
    return value if isinstance(value, int) else rounded(int(value.removesuffix("%")) * whole / 100)


def _age(pod: Object) -> tuple[str, int]:
    return pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"])


class DeploymentController:
    """Brings pods in line with Deployments, and reports in their status.

    Args:
        store: the objects.
        now: the clock.
    """

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._wake = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - makes names, guards nothing
        self._progress: dict[str, tuple[Object, float]] = {}  # uid -> what was last seen, and since when
        self._ready_since: dict[str, float] = {}  # uid of a pod -> the loop's time
        store.subscribe(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.object["kind"] in ("Deployment", "Pod"):
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Looks now and then without being told, for what only time changes."""
        while True:
            self._wake.clear()
            self._note_ready()
            for deployment in self._store.select("Deployment"):
                self._sync(deployment)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _note_ready(self) -> None:
        time = asyncio.get_running_loop().time()
        ready = [pod["metadata"]["uid"] for pod in self._store.select("Pod") if is_ready(pod)]
        self._ready_since = {uid: self._ready_since.get(uid, time) for uid in ready}

    def _available(self, deployment: Object, pod: Object) -> bool:
        """Return whether a pod has been ready for minReadySeconds."""
        since = self._ready_since.get(pod["metadata"]["uid"])
        least: float = deployment["spec"].get("minReadySeconds", 0)
        return since is not None and asyncio.get_running_loop().time() - since >= least

    def _sync(self, deployment: Object) -> None:
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        revision = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        pods = [
            pod
            for pod in self._store.select("Pod", metadata["namespace"])
            if controller_uid(pod) == metadata["uid"] and not is_terminating(pod)
        ]
        new = [pod for pod in pods if pod["metadata"]["labels"][_LABEL_HASH] == revision]
        old = [pod for pod in pods if pod["metadata"]["labels"][_LABEL_HASH] != revision]
        step = plan(deployment, new, old, partial(self._available, deployment))
        for pod in step.delete:
            self._store.remove(key_of(pod), pod["metadata"]["uid"])
        made = [self._store.put(self._pod(deployment, revision))[0] for _ in range(step.create)]
        gone = {pod["metadata"]["uid"] for pod in step.delete}
        new = [*(pod for pod in new if pod["metadata"]["uid"] not in gone), *made]
        old = [pod for pod in old if pod["metadata"]["uid"] not in gone]
        self._report(deployment, new, old)

    def _pod(self, deployment: Object, revision: str) -> Object:
        template, metadata = copy.deepcopy(deployment["spec"]["template"]), deployment["metadata"]
        suffix = "".join(self._random.choices(_LETTERS, k=5))
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{metadata['name']}-{revision}-{suffix}",
                "namespace": metadata["namespace"],
                "labels": {**template["metadata"].get("labels", {}), _LABEL_HASH: revision},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": template["spec"],
        }

    def _report(self, deployment: Object, new: list[Object], old: list[Object]) -> None:
        metadata, wanted = deployment["metadata"], deployment["spec"]["replicas"]
        _, unavailable = _bounds(deployment)
        ready = sum(map(is_ready, (*new, *old)))
        count = sum(self._available(deployment, pod) for pod in (*new, *old))
        updated_ready = sum(map(is_ready, new))
        counts = {
            "observedGeneration": metadata["generation"],
            "replicas": len(new) + len(old),
            "updatedReplicas": len(new),
            "readyReplicas": ready,
            "availableReplicas": count,
            "unavailableReplicas": max(0, wanted - count),
        }
        complete = len(new) == wanted == count and not old
        enough = count >= wanted - unavailable
        available = {
            "type": "Available",
            "status": "True" if enough else "False",
            "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            "message": f"{count} of {wanted} pods are available",
        }
        overdue = self._overdue(deployment, {**counts, "updatedReady": updated_ready}, complete=complete)
        progressing = {
            "type": "Progressing",
            "status": "False" if overdue else "True",
            "reason": "ProgressDeadlineExceeded"
            if overdue
            else "NewReplicaSetAvailable"
            if complete
            else "ReplicaSetUpdated",
            "message": f"{updated_ready} of {wanted} pods of the newest template are ready",
        }
        conditions = with_transition_times(deployment, [available, progressing], self._now())
        self._store.put_status(key_of(deployment), metadata["uid"], {**counts, "conditions": conditions})

    def _overdue(self, deployment: Object, seen: Object, *, complete: bool) -> bool:
        """Return whether nothing has moved for progressDeadlineSeconds."""
        uid, time = deployment["metadata"]["uid"], asyncio.get_running_loop().time()
        before = self._progress.get(uid)
        if before is None or before[0] != seen or complete:
            self._progress[uid] = (seen, time)
            return False
        deadline: float = deployment["spec"].get("progressDeadlineSeconds", 600)
        return time - before[1] >= deadline
