"""The states of router pods: asked beside the queue, since a pod that hangs holds who waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from modelyard_operator.reconcile.verbs import Object

__all__ = ["RouterPoll"]

_OFTEN = 0.2
_SELDOM = 5.0
_PATIENCE = 30.0

_Key = tuple[str, str]
_State = Object | None


@dataclass
class _Poll:
    version: str
    pods: dict[str, Object]
    task: asyncio.Task[None] | None = None
    states: dict[str, _State] = field(default_factory=dict)


class RouterPoll:
    """Asks the routers of each ABTest until all have its configuration, and has the ABTest reconciled at each news.

    Envoy's acknowledgement is no event of the cluster: often while it is about to come, less often when something holds
    it up.

    Args:
        ask: returns what a pod says, or None while it does not answer.
        enqueue: reconciles the ABTest of (namespace, name).
    """

    def __init__(self, ask: Callable[[Object], Awaitable[_State]], enqueue: Callable[[str, str], None]) -> None:
        self._ask, self._enqueue = ask, enqueue
        self._polls: dict[_Key, _Poll] = {}

    def states(self, namespace: str, name: str, pods: Sequence[Object], version: str) -> list[_State] | None:
        """Return what each pod said last; None until each has been asked. Never waits.

        Args:
            namespace: of the ABTest.
            name: of the ABTest.
            pods: its routers that are ready.
            version: the configuration that they are to have.
        """
        key = (namespace, name)
        by_life = {_life(pod): pod for pod in pods}
        poll = self._polls.get(key)
        if poll is None or poll.version != version or poll.pods.keys() != by_life.keys():
            known = {} if poll is None else poll.states
            if poll is not None and poll.task is not None:
                poll.task.cancel()
            states = {life: state for life, state in known.items() if life in by_life}
            poll = self._polls[key] = _Poll(version, by_life, states=states)
            if by_life:
                poll.task = asyncio.create_task(self._run(key, poll))
        if poll.states.keys() != by_life.keys():
            return None
        return list(poll.states.values())

    def forget(self, namespace: str, name: str) -> None:
        """Stop asking the routers of an ABTest that is gone."""
        poll = self._polls.pop((namespace, name), None)
        if poll is not None and poll.task is not None:
            poll.task.cancel()

    def close(self) -> None:
        """Stop asking."""
        for key in list(self._polls):
            self.forget(*key)

    async def _run(self, key: _Key, poll: _Poll) -> None:
        begun = time.monotonic()
        while True:
            answers = await asyncio.gather(*(self._ask(pod) for pod in poll.pods.values()))
            states = dict(zip(poll.pods, answers, strict=True))
            if states != poll.states:
                poll.states = states
                self._enqueue(*key)
            if all(state is not None and state.get("version") == poll.version for state in answers):
                return
            await asyncio.sleep(_OFTEN if time.monotonic() - begun < _PATIENCE else _SELDOM)


def _life(pod: Object) -> str:
    """Return what tells a pod between two restarts from any other: what it said counts for that long."""
    status = pod.get("status", {})
    containers = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return f"{pod['metadata']['uid']}/{sum(container.get('restartCount', 0) for container in containers)}"
