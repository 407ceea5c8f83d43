"""The rolling update's arithmetic, driven to its end from any start."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelyard_local.deployments import plan

Pod = dict[str, Any]


def pod(number: int, ready: bool) -> Pod:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    metadata = {"name": f"p{number}", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": str(number)}
    return {"metadata": metadata, "status": {"conditions": conditions}}


def ready(pods: list[Pod]) -> int:
    return sum(entry["status"]["conditions"][0]["status"] == "True" for entry in pods)


def deployment(replicas: int, surge: int | str, unavailable: int | str) -> Pod:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"spec": {"replicas": replicas, "strategy": {"rollingUpdate": rolling}}}


@given(
    replicas=st.integers(0, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 2),
    old_ready=st.integers(0, 6),
    old_broken=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_it_converges_and_never_serves_with_too_few(
    replicas: int, surge: int, unavailable: int, old_ready: int, old_broken: int, order: Any
) -> None:
    """Whatever the order in which new pods become ready."""
    wanted = deployment(replicas, surge, unavailable)
    most = replicas + (surge or (0 if unavailable else 1))
    old = [pod(number, True) for number in range(old_ready)] + [pod(50 + number, False) for number in range(old_broken)]
    new: list[Pod] = []
    number = 100
    for _ in range(200):
        before = ready([*new, *old])
        step = plan(wanted, new, old)
        gone = {entry["metadata"]["name"] for entry in step.delete}
        new = [entry for entry in new if entry["metadata"]["name"] not in gone]
        old = [entry for entry in old if entry["metadata"]["name"] not in gone]
        for _ in range(step.create):
            number += 1
            new.append(pod(number, False))
        after = ready([*new, *old])
        assert after >= min(before, replicas - unavailable)
        if step.create:
            assert len(new) + len(old) <= most
        if not step.create and not step.delete:
            waiting = [entry for entry in new if not ready([entry])]
            if not waiting:
                break
            order.choice(waiting)["status"]["conditions"][0]["status"] = "True"

    assert (len(new), ready(new), old) == (replicas, replicas, [])


def test_shares_of_replicas_are_rounded_as_kubernetes_rounds_them() -> None:
    """25 % of 1 is one pod more, and none less."""
    step = plan(deployment(1, "25%", "25%"), [], [pod(1, True)])

    assert (step.create, step.delete) == (1, [])


def test_pods_that_serve_nobody_go_first() -> None:
    """A broken pod of an earlier template is replaced before one that serves."""
    broken, serving = pod(1, False), pod(2, True)

    step = plan(deployment(1, 1, 0), [], [serving, broken])

    assert step.delete == [broken]
