"""WeightsApplied waits for every router, and routers are asked beside the queue until they have what they should."""

import asyncio
from collections.abc import Mapping

import pytest
from modelyard_operator.reconcile.abtest import weights_applied
from modelyard_operator.reconcile.routers import RouterPoll
from modelyard_operator.reconcile.verbs import Object

HAS = {"version": "v2", "error": None}
OLD = {"version": "v1", "error": None}
REFUSED = {"version": "v1", "error": "Envoy refused version v2"}


@pytest.mark.parametrize(
    ("states", "ok", "reason"),
    [
        ([HAS, HAS], True, "Applied"),
        ([HAS, OLD], False, "Applying"),
        ([HAS, None], False, "Applying"),
        ([HAS, REFUSED], False, "RouterRejected"),
        ([], False, "Applying"),
    ],
    ids=["all have it", "one has the old", "one does not answer", "one refused it", "none is ready"],
)
def test_every_ready_router_counts(states: list[Object | None], ok: bool, reason: str) -> None:
    verdict = weights_applied(states, "v2")

    assert (verdict.ok, verdict.reason) == (ok, reason)


def _pod(name: str, restarts: int = 0) -> Object:
    return {"metadata": {"name": name, "uid": name}, "status": {"containerStatuses": [{"restartCount": restarts}]}}


class Routers:
    """Answers for router pods, and counts how often each was asked."""

    def __init__(self, **states: Object | None) -> None:
        self.states: Mapping[str, Object | None] = states
        self.asked: list[str] = []
        self.news = asyncio.Event()
        self.poll = RouterPoll(self._ask, lambda _namespace, _name: self.news.set())

    async def _ask(self, pod: Object) -> Object | None:
        self.asked.append(pod["metadata"]["name"])
        return self.states[pod["metadata"]["name"]]

    async def next(self, pods: list[Object], version: str) -> list[Object | None] | None:
        """Return the states after the next news."""
        async with asyncio.timeout(10):
            await self.news.wait()
        self.news.clear()
        return self.poll.states("ns", "test", pods, version)


async def test_nothing_is_known_until_each_router_was_asked_and_nobody_waits_for_that() -> None:
    routers, pods = Routers(a=HAS, b=None), [_pod("a"), _pod("b")]

    assert routers.poll.states("ns", "test", pods, "v2") is None
    assert await routers.next(pods, "v2") == [HAS, None]
    routers.poll.close()


async def test_a_router_that_lags_is_asked_again_and_then_left_alone() -> None:
    routers, pods = Routers(a=OLD), [_pod("a")]
    routers.poll.states("ns", "test", pods, "v2")
    assert await routers.next(pods, "v2") == [OLD]

    routers.states = {"a": HAS}

    assert await routers.next(pods, "v2") == [HAS]
    asked = len(routers.asked)
    assert routers.poll.states("ns", "test", pods, "v2") == [HAS]
    await asyncio.sleep(0)
    assert len(routers.asked) == asked
    routers.poll.close()


async def test_what_a_router_said_counts_until_its_container_starts_anew() -> None:
    routers = Routers(a=HAS)
    routers.poll.states("ns", "test", [_pod("a")], "v2")
    await routers.next([_pod("a")], "v2")

    assert routers.poll.states("ns", "test", [_pod("a", restarts=1)], "v2") is None
    assert await routers.next([_pod("a", restarts=1)], "v2") == [HAS]
    routers.poll.close()
