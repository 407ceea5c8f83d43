"""Conditions, and the writing of status: only when something changed, so that repeated reconciles are silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard_operator.api.kinds import GROUP_VERSION
from modelyard_operator.reconcile.verbs import Cluster, Object

__all__ = [
    "StatusWriter",
    "Verdict",
    "condition_of",
    "conditions_from",
    "ready_from",
    "timestamp",
    "with_transition_times",
]

_LOG = logging.getLogger("modelyard.operator")

_IN_PASSING = frozenset({"Starting", "RollingOut", "Applying"})
_HOLD_SECONDS = 1.0


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


class StatusWriter:
    """Writes statuses: nothing that is there already, and what is mere progress at most once a second.

    Args:
        cluster: takes them.
        clock: seconds that only grow.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._cluster, self._clock = cluster, clock
        self._held: dict[tuple[str, str, str], float] = {}  # since when a status differs from the live one

    async def write(self, obj: Object, status: Object) -> float | None:
        """Write a status, or hold it back; return seconds after which to come with a newer one, or None."""
        wanted = {key: value for key, value in status.items() if value is not None}
        before = obj.get("status", {})
        key = _key(obj)
        if before == wanted:
            self._held.pop(key, None)
            return None
        now = self._clock()
        rest = self._held.setdefault(key, now) + _HOLD_SECONDS - now
        if rest > 0 and not _is_news(before, wanted):
            return rest
        _log_change(obj, wanted)
        metadata = {name: obj["metadata"][name] for name in ("name", "namespace")}
        # Guards against a namesake that was created after `obj` was read.
        metadata["uid"] = obj["metadata"]["uid"]
        await self._cluster.apply_status(
            {"apiVersion": GROUP_VERSION, "kind": obj["kind"], "metadata": metadata, "status": wanted}
        )
        self._held.pop(key, None)
        return None

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Drop what is held of an object that is gone."""
        self._held.pop((kind, namespace, name), None)


def _key(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]


def _is_news(before: Object, after: Object) -> bool:
    """Return whether a status tells more than how far something has come."""
    told = _answers(before)
    if not told:  # a new object: its first status can wait for its pods to be counted, unless something is wrong
        return any(status == "True" or reason not in _IN_PASSING for _, status, reason, _ in _answers(after))
    return told != _answers(after)


def _answers(status: Object) -> set[tuple[str, str, str, int]]:
    return {
        (condition["type"], condition["status"], condition["reason"], condition.get("observedGeneration", 0))
        for condition in status.get("conditions", ())
    }


def _log_change(obj: Object, status: Object) -> None:
    """Say in the log what became of an object, once per change of its reason."""
    before = condition_of(obj, "Ready") or {}
    after = condition_of({"status": status}, "Ready") or {}
    if after and (before.get("status"), before.get("reason")) != (after["status"], after["reason"]):
        metadata = obj["metadata"]
        message = f": {after['message']}" if after["message"] else ""
        _LOG.info("%s %s/%s: %s%s", obj["kind"], metadata["namespace"], metadata["name"], after["reason"], message)
