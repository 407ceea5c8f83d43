"""One readable line for what a person waits for: applied, ready, failed and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.reconcile.conditions import condition_of

from modelyard_local.objects import Object, key_of
from modelyard_local.store import Change
from modelyard_local.unsupported import unsupported_in

__all__ = ["Progress"]


class Progress:
    """Turns changes of the store into lines."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], datetime]) -> None:
        self._write, self._now = write, now
        self._named: set[str] = set()

    def say(self, text: str) -> None:
        """Write a line with the time."""
        self._write(f"{self._now().astimezone():%H:%M:%S}  {text}")

    def on_applied(self, child: Object) -> None:
        """Name once what a rendered manifest asks for and this machine does not do."""
        fresh = [name for name in unsupported_in(child) if name not in self._named]
        if fresh:
            self._named.update(fresh)
            self.say(f"not done on one machine, and ignored: {', '.join(fresh)}")

    def on_change(self, change: Change) -> None:
        """Write a line for a change that matters to a person."""
        if change.object["kind"] in CUSTOM_KINDS:
            self._custom(change)
        elif change.object["kind"] == "Pod" and change.what == "status":
            self._pod(change)

    def _custom(self, change: Change) -> None:
        key, metadata = key_of(change.object), change.object["metadata"]
        if change.what == "deleted":
            self.say(f"{key}: deleted")
        elif change.what != "status":
            self.say(f"{key}: {change.what}, generation {metadata['generation']}")
        else:
            line = _ready_line(change.object)
            before = None if change.previous is None else _ready_line(change.previous)
            if line is not None and line != before:
                self.say(f"{key}: {line}")

    def _pod(self, change: Change) -> None:
        before = dict(_back_offs(change.previous or {}))
        for name, state in _back_offs(change.object):
            if before.get(name) != state:
                self.say(f"pod/{change.object['metadata']['name']}: container {name} {state}")


def _ready_line(obj: Object) -> str | None:
    ready = condition_of(obj, "Ready")
    if ready is None:
        return None
    status = obj["status"]
    if ready["status"] == "True":
        what = status.get("weightsSummary") or f"version {status.get('model', {}).get('version', '?')}"
        return f"Ready: {what}, at {status.get('url', '?')}"
    return f"not Ready: {ready['reason']}" + (f": {ready['message']}" if ready["message"] else "")


def _back_offs(pod: Object) -> list[tuple[str, str]]:
    status = pod.get("status", {})
    found = []
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        waiting = container["state"].get("waiting", {})
        ended = container["lastState"].get("terminated")
        if waiting.get("reason") == "CrashLoopBackOff" and ended:
            wait = waiting["message"].split()[1]
            found.append((container["name"], f"exited with {ended['exitCode']}; trying again in {wait}"))
    return found
