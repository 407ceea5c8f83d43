"""What an autoscaler says of itself, as a condition of its ModelDeployment."""

from datetime import UTC, datetime

import pytest
from modelyard_operator.reconcile.modeldeployment import observe_model_deployment
from modelyard_operator.reconcile.verbs import Object

OWNER: Object = {"metadata": {"name": "churn", "generation": 2}, "spec": {"model": {}}}
DEPLOYMENT: Object = {
    "metadata": {"name": "churn", "generation": 1},
    "spec": {"replicas": 1, "template": {"metadata": {"labels": {}}}},
    "status": {
        "observedGeneration": 1,
        **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1),
    },
}


def _conditions(autoscaler: Object | None) -> dict[str, tuple[str, str]]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    status = observe_model_deployment(
        OWNER, deployment=DEPLOYMENT, pods=[], url="http://churn", now=now, autoscaler=autoscaler
    )
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


def _autoscaler(status: str, reason: str, message: str) -> Object:
    condition = {"type": "ScalingActive", "status": status, "reason": reason, "message": message}
    return {"status": {"conditions": [condition]}}


@pytest.mark.parametrize(
    ("autoscaler", "expected"),
    [
        ({"status": {"conditions": []}}, ("False", "Starting")),
        (_autoscaler("True", "ValidMetricFound", "found"), ("True", "Scaling")),
        (
            _autoscaler("False", "FailedGetContainerResourceMetric", "could not find (get pods.metrics.k8s.io)"),
            ("False", "MetricsMissing"),
        ),
        (_autoscaler("False", "ScalingDisabled", "scaling is disabled"), ("False", "ScalingDisabled")),
    ],
)
def test_the_autoscalers_word_is_a_condition_and_no_part_of_ready(
    autoscaler: Object, expected: tuple[str, str]
) -> None:
    conditions = _conditions(autoscaler)

    assert conditions["ScalingActive"] == expected
    assert conditions["Ready"] == ("True", "Ready")


def test_without_an_autoscaler_there_is_no_such_condition() -> None:
    assert "ScalingActive" not in _conditions(None)
