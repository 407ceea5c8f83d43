"""Keeps what runs in step with the Pods of the store, as a kubelet does with those of its node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelyard_local.objects import Key, is_terminating, key_of
from modelyard_local.pod import Node, PodRunner
from modelyard_local.store import Change

__all__ = ["Kubelet"]

_SHUTDOWN_SECONDS = 2.0
_LOG_LIMIT = 16 * 1024 * 1024
_LOG_INTERVAL = 10.0


class Kubelet:
    """Starts a runner for each Pod and ends it when the Pod is marked for deletion."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runners: dict[Key, PodRunner] = {}
        self._endings: dict[Key, asyncio.Task[None]] = {}
        node.store.subscribe(self._on_change)

    def log_of(self, pod: Key, container: str) -> Path | None:
        """Return the file that a container of a pod writes to, or None when the pod does not run here."""
        runner = self._runners.get(pod)
        return None if runner is None else runner.log_of(container)

    async def run(self) -> None:
        """Keep logs small, until cancelled; pods need no loop, since the store tells of every change."""
        while True:
            await asyncio.sleep(_LOG_INTERVAL)
            for runner in self._runners.values():
                for log in runner.folder.glob("*.log"):
                    _shorten(log)

    async def shut_down(self) -> None:
        """End every pod soon: nobody is to be served after."""
        for ending in self._endings.values():
            ending.cancel()
        await asyncio.gather(*self._endings.values(), return_exceptions=True)
        await asyncio.gather(*(runner.terminate(_SHUTDOWN_SECONDS) for runner in self._runners.values()))
        self._runners.clear()

    def _on_change(self, change: Change) -> None:
        key = key_of(change.object)
        if key.kind == "Pod":
            if change.what == "created":
                self._runners[key] = PodRunner(self._node, change.object)
            elif is_terminating(change.object) and change.what != "deleted" and key not in self._endings:
                self._endings[key] = asyncio.create_task(self._end(key), name=f"end of {key.name}")
        elif key.kind == "ConfigMap" and change.what == "configured":
            for pod, runner in self._runners.items():
                if pod.namespace == key.namespace:
                    runner.refresh_volumes()

    async def _end(self, key: Key) -> None:
        runner = self._runners.get(key)
        if runner is not None:
            await runner.terminate()
            del self._runners[key]
        self._endings.pop(key, None)


def _shorten(log: Path) -> None:
    """Move a long log aside; its writer goes on at the beginning, since it only ever appends."""
    if log.stat().st_size > _LOG_LIMIT:
        log.with_suffix(".log.1").write_bytes(log.read_bytes())
        log.open("wb").close()
