"""Conditions, and the writing of status: only when something changed, so that repeated reconciles are silent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard_operator.api.kinds import GROUP_VERSION
from modelyard_operator.reconcile.verbs import Cluster, Object

__all__ = [
    "Verdict",
    "condition_of",
    "conditions_from",
    "ready_from",
    "timestamp",
    "with_transition_times",
    "write_status",
]

_LOG = logging.getLogger("modelyard.operator")


@dataclass(frozen=True)
class Verdict:
    """One condition before it is stamped: a positive question, its answer, and why."""

    type: str
    ok: bool
    reason: str
    message: str = ""


def condition_of(obj: Object, type_: str) -> Object | None:
    """Return the live condition of a type, or None."""
    conditions: list[Object] = obj.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == type_), None)


def ready_from(verdicts: Iterable[Verdict]) -> Verdict:
    """Return Ready: true when all the others are, else with the reason of the last that is not."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    if not failed:
        return Verdict("Ready", ok=True, reason="Ready")
    return Verdict("Ready", ok=False, reason=failed[-1].reason, message=failed[-1].message)


def conditions_from(obj: Object, verdicts: Iterable[Verdict], now: datetime) -> list[Object]:
    """Return verdicts as conditions: of the object's generation, with the time at which each answer last changed."""
    wanted = [
        {
            "type": verdict.type,
            "status": "True" if verdict.ok else "False",
            "reason": verdict.reason,
            "message": verdict.message[:4096],
            "observedGeneration": obj["metadata"]["generation"],
        }
        for verdict in verdicts
    ]
    return with_transition_times(obj, wanted, now)


def with_transition_times(obj: Object, wanted: Iterable[Mapping[str, Any]], now: datetime) -> list[Object]:
    """Return conditions with the time since which each has its status, by the object's live ones."""
    stamped: list[Object] = []
    for condition in wanted:
        live = condition_of(obj, condition["type"])
        unchanged = live is not None and live["status"] == condition["status"]
        since = live["lastTransitionTime"] if live and unchanged else timestamp(now)
        stamped.append({**condition, "lastTransitionTime": since})
    return stamped


def timestamp(moment: datetime) -> str:
    """Return a moment, in UTC, in the API's form, which has whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def write_status(cluster: Cluster, obj: Object, status: Object) -> bool:
    """Write a status unless the live one already says the same; return whether it was written."""
    wanted = {key: value for key, value in status.items() if value is not None}
    if obj.get("status", {}) == wanted:
        return False
    _log_change(obj, wanted)
    metadata = {"name": obj["metadata"]["name"], "namespace": obj["metadata"]["namespace"]}
    # Guards against a namesake that was created after `obj` was read.
    metadata["uid"] = obj["metadata"]["uid"]
    await cluster.apply_status(
        {"apiVersion": GROUP_VERSION, "kind": obj["kind"], "metadata": metadata, "status": wanted}
    )
    return True


def _log_change(obj: Object, status: Object) -> None:
    """Say in the log what became of an object, once per change of its reason."""
    before = condition_of(obj, "Ready") or {}
    after = condition_of({"status": status}, "Ready") or {}
    if after and (before.get("status"), before.get("reason")) != (after["status"], after["reason"]):
        metadata = obj["metadata"]
        message = f": {after['message']}" if after["message"] else ""
        _LOG.info("%s %s/%s: %s%s", obj["kind"], metadata["namespace"], metadata["name"], after["reason"], message)
