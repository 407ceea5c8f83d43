"""WeightsApplied waits for every router; routers that are not ready yet are not waited for."""

import asyncio
from collections.abc import Mapping

import pytest
from modelyard_operator.reconcile.abtest import weights_applied
from modelyard_operator.reconcile.verbs import Object


class Routers:
    """The one verb that is asked here: what each router pod says of itself."""

    def __init__(self, states: Mapping[str, Object | None]) -> None:
        self._states = states

    async def router_state(self, pod: Object) -> Object | None:
        return self._states[pod["metadata"]["name"]]


def _pod(name: str, *, ready: bool = True) -> Object:
    return {
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


HAS = {"version": "v2", "error": None}
OLD = {"version": "v1", "error": None}
REFUSED = {"version": "v1", "error": "Envoy refused version v2"}


@pytest.mark.parametrize(
    ("states", "ok", "reason"),
    [
        ({"a": HAS, "b": HAS}, True, "Applied"),
        ({"a": HAS, "b": OLD}, False, "Applying"),
        ({"a": HAS, "b": None}, False, "Applying"),
        ({"a": HAS, "b": REFUSED}, False, "RouterRejected"),
    ],
    ids=["all have it", "one has the old", "one does not answer", "one refused it"],
)
def test_every_ready_router_counts(states: dict[str, Object | None], ok: bool, reason: str) -> None:
    verdict = asyncio.run(weights_applied(Routers(states), [_pod(name) for name in states], "v2"))

    assert (verdict.ok, verdict.reason) == (ok, reason)


def test_a_router_that_is_not_ready_is_not_waited_for() -> None:
    pods = [_pod("a"), _pod("new", ready=False)]

    assert asyncio.run(weights_applied(Routers({"a": HAS}), pods, "v2")).ok


def test_without_a_ready_router_nothing_is_applied() -> None:
    assert not asyncio.run(weights_applied(Routers({}), [_pod("new", ready=False)], "v2")).ok
