"""When a spec is given up for an earlier one, and that nothing goes round in circles."""

from typing import Any

import pytest
from manifest_cases import model_deployment
from modelyard_operator.manifests.revision import newest_first, revision, spec_of_revision
from modelyard_operator.reconcile.rollback import given_up, rolled_back, target_of
from modelyard_operator.reconcile.verbs import Object


def _owner(version: str, generation: int, condition: Object | None = None, **spec: Any) -> Object:
    manifest = model_deployment("churn", model={"uri": f"pvc://models/churn/{version}"}, **spec)
    manifest["metadata"] |= {"namespace": "shop", "uid": "u", "generation": generation}
    if condition is not None:
        manifest["status"] = {"conditions": [condition]}
    return manifest


def _up_to_date(reason: str, *, generation: int = 2, status: str = "False", message: str = "why") -> Object:
    return {
        "type": "UpToDate",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def test_the_target_is_the_spec_that_was_ready_last() -> None:
    revisions = [revision(_owner("1", 1)), revision(_owner("2", 4)), revision(_owner("3", 2))]

    assert newest_first(revisions)[0] == revisions[1]
    assert target_of(_owner("4", 5), revisions) == revisions[1]
    assert target_of(_owner("2", 5), revisions) is None
    assert target_of(_owner("1", 1), []) is None


def test_the_number_of_pods_is_no_matter_of_a_version() -> None:
    of_one, of_three = revision(_owner("1", 1, replicas=1)), revision(_owner("1", 2, replicas=3))

    assert of_one["metadata"]["name"] == of_three["metadata"]["name"]
    assert spec_of_revision(of_one, _owner("2", 3, replicas=5)) == _owner("1", 1, replicas=5)["spec"]
    assert "replicas" not in spec_of_revision(of_three, _owner("2", 3))


@pytest.mark.parametrize("reason", ["LoadFailed", "ArtifactNotFound", "OutOfMemory", "ProgressDeadlineExceeded"])
def test_a_failed_rollout_is_given_up_with_its_reason(reason: str) -> None:
    verdict = rolled_back([_up_to_date(reason)], revision(_owner("1", 1)))

    assert verdict is not None
    assert (verdict.ok, verdict.reason) == (False, "RolledBack")
    assert f"failed with {reason}: why" in verdict.message
    assert "generation 1 runs again" in verdict.message


@pytest.mark.parametrize("reason", ["RollingOut", "Unschedulable", "ImagePullFailed", "QuotaExceeded", "Paused"])
def test_what_may_pass_is_waited_for_until_the_deadline(reason: str) -> None:
    assert rolled_back([_up_to_date(reason)], revision(_owner("1", 1))) is None


def test_a_spec_stays_given_up_until_it_is_edited() -> None:
    condition = _up_to_date("RolledBack", generation=2, message="said once")

    verdict = given_up(_owner("2", 2, condition))

    assert verdict is not None
    assert verdict.message == "said once"
    assert given_up(_owner("2", 3, condition)) is None
    assert given_up(_owner("2", 2, _up_to_date("LoadFailed"))) is None
    assert given_up(_owner("2", 2)) is None
