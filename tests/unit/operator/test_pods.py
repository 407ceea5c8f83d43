"""From what a kubelet says to a reason that a user can act on."""

import json

import pytest
from modelyard_operator.reconcile.pods import failure_of, fetch_report_of
from modelyard_operator.reconcile.verbs import Object
from modelyard_runtime.contract import Failure, FetchReport


def _pod(
    container: Object | None = None, *, init: Object | None = None, conditions: list[Object] | None = None
) -> Object:
    return {
        "metadata": {"name": "p"},
        "status": {
            "conditions": conditions or [],
            "initContainerStatuses": [{"name": "fetch", **init}] if init else [],
            "containerStatuses": [{"name": "runtime", **container}] if container else [],
        },
    }


def _said(reason: str, message: str) -> Object:
    return {"exitCode": 1, "message": json.dumps({"reason": reason, "message": message})}


@pytest.mark.parametrize(
    ("pod", "reason", "part"),
    [
        (_pod(init={"state": {"terminated": _said("AccessDenied", "no")}}), "AccessDenied", "no"),
        (
            _pod(
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": _said("LoadFailed", "bad")},
                }
            ),
            "LoadFailed",
            "bad",
        ),
        (
            _pod({"state": {"running": {}}, "lastState": {"terminated": _said("LoadFailed", "bad")}}),
            "LoadFailed",
            "bad",
        ),
        (_pod({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}), "OutOfMemory", "limits.memory"),
        (
            _pod({"state": {"terminated": {"exitCode": 3, "message": "Segmentation fault"}}}),
            "LoadFailed",
            "Segmentation",
        ),
        (
            _pod({"image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}}),
            "ImagePullFailed",
            "image x:1 of container runtime: no such tag",
        ),
        (
            _pod({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}}),
            "InvalidPodTemplate",
            "no secret",
        ),
        (
            _pod(
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                ]
            ),
            "Unschedulable",
            "0/1 nodes",
        ),
    ],
)
def test_reason_and_message(pod: Object, reason: str, part: str) -> None:
    failure = failure_of(pod)

    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert part in failure.message


@pytest.mark.parametrize(
    "pod",
    [
        _pod(),
        _pod({"state": {"waiting": {"reason": "PodInitializing"}}}),
        _pod({"state": {"running": {}}}, init={"state": {"terminated": {"exitCode": 0}}}),
        _pod(
            {"state": {"running": {}}, "lastState": {"terminated": _said("LoadFailed", "once")}},
            conditions=[{"type": "Ready", "status": "True"}],
        ),
    ],
    ids=["new", "initializing", "running", "recovered"],
)
def test_a_pod_that_only_needs_time_has_not_failed(pod: Object) -> None:
    assert failure_of(pod) is None


def test_the_newest_report_counts_and_strange_messages_do_not() -> None:
    report = FetchReport(uri="file:///m", digest="sha256:0", format="linear", version="1", bytes=1)
    pods = [
        _pod(init={"state": {"terminated": {"exitCode": 0, "message": "{}"}}}),
        _pod(init={"state": {"terminated": {"exitCode": 0, "message": report.to_json()}}}),
        _pod(init={"state": {"terminated": {"exitCode": 0, "message": "not json"}}}),
    ]

    assert fetch_report_of(pods) == report
