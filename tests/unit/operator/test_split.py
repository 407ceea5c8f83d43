"""When a split changes, when it waits, and what it remembers."""

from typing import Any

import pytest
from manifest_cases import abtest
from modelyard_operator.api.abtest import ABTestSpec
from modelyard_operator.experiment.buckets import Segment, to_json
from modelyard_operator.reconcile.abtest import Blocked, Split, next_split, previous_split

UP = {"churn": True, "churn-gbm": True}
GBM_DOWN = {"churn": True, "churn-gbm": False}


def _spec(current: int, gbm: int, **changes: Any) -> ABTestSpec:
    manifest = abtest(**changes)
    for variant, weight in zip(manifest["spec"]["variants"], (current, gbm), strict=True):
        variant["weight"] = weight
    return ABTestSpec.parse(manifest["spec"])


def _first(current: int, gbm: int) -> Split:
    split, held = next_split(Split(), _spec(current, gbm), UP, default_salt="t")
    assert held is None
    return split


def test_the_first_split_is_epoch_1() -> None:
    split = _first(90, 10)

    assert split == Split(1, (Segment("current", 9000), Segment("gbm", 1000)), ("x-user-id", "t"))


def test_the_same_weights_in_other_numbers_are_the_same_epoch() -> None:
    before = _first(90, 10)

    assert next_split(before, _spec(9, 1), UP, default_salt="t") == (before, None)


def test_other_weights_begin_an_epoch_and_nobody_leaves_the_variant_that_grows() -> None:
    split, _ = next_split(_first(90, 10), _spec(50, 50), UP, default_salt="t")

    assert split.epoch == 2
    assert split.buckets == (Segment("current", 5000), Segment("gbm", 5000))


@pytest.mark.parametrize("assignment", [{"header": "x-account"}, {"header": "x-user-id", "salt": "other"}])
def test_another_header_or_salt_begins_an_epoch(assignment: dict[str, str]) -> None:
    before = _first(90, 10)

    split, _ = next_split(before, _spec(90, 10, assignment=assignment), UP, default_salt="t")

    assert (split.epoch, split.buckets) == (2, before.buckets)


def test_a_variant_gains_nothing_while_its_model_does_not_answer() -> None:
    before = _first(90, 10)

    split, held = next_split(before, _spec(50, 50), GBM_DOWN, default_salt="t")

    assert split == before
    assert held is not None
    assert held.reason == "VariantNotAvailable"
    assert "churn-gbm" in held.message


def test_traffic_may_leave_a_variant_whose_model_does_not_answer() -> None:
    split, held = next_split(_first(50, 50), _spec(100, 0), GBM_DOWN, default_salt="t")

    assert held is None
    assert split.buckets == (Segment("current", 10000),)


def test_a_first_split_waits_for_every_model_that_gets_traffic() -> None:
    with pytest.raises(Blocked) as blocked:
        next_split(Split(), _spec(90, 10), GBM_DOWN, default_salt="t")

    assert blocked.value.reason == "VariantNotAvailable"
    assert next_split(Split(), _spec(90, 0), GBM_DOWN, default_salt="t")[0].epoch == 1


def test_status_restores_what_a_deleted_or_mangled_config_map_held() -> None:
    split = _first(90, 10)
    owner = {"status": {"epoch": split.epoch, "buckets": to_json(split.buckets)}}
    mangled = {"metadata": {"annotations": {"modelyard.dev/epoch": "x"}}, "data": {}}

    restored = Split(1, split.buckets, None)
    assert previous_split(None, owner) == restored
    assert previous_split(mangled, owner) == restored
    assert next_split(restored, _spec(90, 10), UP, default_salt="t") == (split, None)
