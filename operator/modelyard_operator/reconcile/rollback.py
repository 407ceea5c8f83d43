"""Going back to the last spec that was Ready. Pure functions.

That a spec was given up is told by its own status: UpToDate is RolledBack for this generation. So a restarted operator
knows it, an edit of the spec tries again, and nothing goes round in circles.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelyard_runtime.contract import FailureReason

from modelyard_operator.manifests.revision import is_of_spec, newest_first
from modelyard_operator.reconcile.conditions import Verdict, condition_of
from modelyard_operator.reconcile.verbs import Object

__all__ = ["ROLLED_BACK", "given_up", "rolled_back", "target_of"]

ROLLED_BACK = "RolledBack"
_FAILURES = {*map(str, FailureReason), "ProgressDeadlineExceeded"}


def target_of(owner: Object, revisions: Sequence[Object]) -> Object | None:
    """Return the ControllerRevision to go back to: of the spec that was Ready last, if that is not the present one."""
    newest = newest_first(revisions)
    return newest[0] if newest and not is_of_spec(newest[0], owner) else None


def given_up(owner: Object) -> Verdict | None:
    """Return the verdict by which the present spec was given up, or None."""
    condition = condition_of(owner, "UpToDate")
    if condition is None or condition["reason"] != ROLLED_BACK:
        return None
    if condition["observedGeneration"] != owner["metadata"]["generation"]:
        return None
    return Verdict("UpToDate", ok=False, reason=ROLLED_BACK, message=condition["message"])


def rolled_back(conditions: Sequence[Object], target: Object) -> Verdict | None:
    """Return the verdict that gives a spec up for the target where the conditions say that it failed, else None."""
    up_to_date = next(condition for condition in conditions if condition["type"] == "UpToDate")
    if up_to_date["status"] == "True" or up_to_date["reason"] not in _FAILURES:
        return None
    message = (
        f"the spec of generation {target['revision']} runs again, since this one failed with {up_to_date['reason']}: "
        f"{up_to_date['message']}. Correct the spec, and it is tried again"
    )
    return Verdict("UpToDate", ok=False, reason=ROLLED_BACK, message=message)
