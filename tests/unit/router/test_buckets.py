"""Bucket maps: exact shares, the fewest moves, nobody taken from a variant that grows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_operator.experiment.buckets import (
    TOTAL,
    BucketMap,
    Segment,
    from_json,
    next_map,
    normalize,
    share_moved,
    sizes,
    to_json,
)

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
weights = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**6), min_size=1).filter(lambda w: any(w.values()))
histories = st.lists(weights, min_size=2, max_size=8)


def owners(bucket_map: BucketMap) -> list[str]:
    return [s.variant for s in bucket_map for _ in range(s.size)]


def maps_of(history: list[dict[str, int]]) -> list[BucketMap]:
    result: list[BucketMap] = []
    for step in history:
        result.append(next_map(result[-1] if result else (), step))
    return result


@settings(deadline=None)
@given(weights)
def test_normalized_weights_total_10000_and_are_each_within_one_of_the_exact_share(
    given_weights: dict[str, int],
) -> None:
    shares = normalize(given_weights)

    total = sum(given_weights.values())
    assert sum(shares.values()) == TOTAL
    assert shares.keys() == given_weights.keys()
    assert all(abs(shares[name] - weight * TOTAL / total) < 1 for name, weight in given_weights.items())


def test_equal_remainders_are_served_by_name() -> None:
    assert normalize({"c": 1, "b": 1, "a": 1}) == {"a": 3334, "b": 3333, "c": 3333}


def test_the_order_of_the_weights_means_nothing() -> None:
    assert next_map((), {"a": 1, "b": 2, "c": 3}) == next_map((), {"c": 3, "a": 1, "b": 2})


@pytest.mark.parametrize("wrong", [{}, {"a": 0}, {"a": 0, "b": 0}, {"a": -1, "b": 2}, {"a": True}, {"a": 0.5}])
def test_weights_that_say_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="weight"):
        normalize(wrong)


@settings(deadline=None)
@given(histories)
def test_every_map_has_exact_shares_and_merged_segments(history: list[dict[str, int]]) -> None:
    for bucket_map, step in zip(maps_of(history), history, strict=True):
        assert sizes(bucket_map) == {name: size for name, size in normalize(step).items() if size}
        assert all(x.variant != y.variant for x, y in pairwise(bucket_map))
        assert all(s.size > 0 for s in bucket_map)


@settings(deadline=None)
@given(histories)
def test_exactly_the_sum_of_the_decreases_moves(history: list[dict[str, int]]) -> None:
    for old, new in pairwise(maps_of(history)):
        before, after = sizes(old), sizes(new)
        decreases = sum(max(0, size - after.get(name, 0)) for name, size in before.items())
        moved = sum(x != y for x, y in zip(owners(old), owners(new), strict=True))
        assert moved == decreases
        assert share_moved(old, new) == moved / TOTAL


@settings(deadline=None)
@given(histories)
def test_nobody_leaves_a_variant_that_keeps_its_size_or_grows(history: list[dict[str, int]]) -> None:
    for old, new in pairwise(maps_of(history)):
        before, after = sizes(old), sizes(new)
        left = {x for x, y in zip(owners(old), owners(new), strict=True) if x != y}
        assert all(after.get(name, 0) < before[name] for name in left)


@settings(deadline=None)
@given(histories)
def test_the_same_weights_again_change_nothing(history: list[dict[str, int]]) -> None:
    last = maps_of(history)[-1]

    assert next_map(last, history[-1]) == last


@settings(deadline=None)
@given(histories)
def test_maps_depend_on_nothing_but_their_history(history: list[dict[str, int]]) -> None:
    assert maps_of(history) == maps_of([dict(reversed(step.items())) for step in history])


@settings(max_examples=20, deadline=None)
@given(st.lists(weights, min_size=30, max_size=30))
def test_fragmentation_stays_bounded(history: list[dict[str, int]]) -> None:
    assert max(len(bucket_map) for bucket_map in maps_of(history)) <= 4 * len(NAMES)


def test_from_90_to_50_percent_no_user_of_the_challenger_moves() -> None:
    old = next_map((), {"current": 90, "gbm": 10})

    new = next_map(old, {"current": 50, "gbm": 50})

    assert old == (Segment("current", 9000), Segment("gbm", 1000))
    assert new == (Segment("current", 5000), Segment("gbm", 5000))
    assert share_moved(old, new) == 0.4


def test_two_challengers_grow_at_the_control_without_meeting() -> None:
    old = next_map((), {"a": 80, "b": 10, "c": 10})

    new = next_map(old, {"a": 60, "b": 20, "c": 20})

    assert old == (Segment("c", 1000), Segment("a", 8000), Segment("b", 1000))
    assert new == (Segment("c", 2000), Segment("a", 6000), Segment("b", 2000))


def test_the_buckets_of_a_removed_variant_go_to_those_that_grow() -> None:
    old = next_map((), {"a": 50, "b": 30, "c": 20})

    new = next_map(old, {"a": 50, "b": 50})

    assert {(x, y) for x, y in zip(owners(old), owners(new), strict=True) if x != y} == {("c", "b")}


@settings(deadline=None)
@given(weights)
def test_a_map_survives_json(given_weights: dict[str, int]) -> None:
    bucket_map = next_map((), given_weights)

    assert from_json(to_json(bucket_map)) == bucket_map


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '[["a",9999]]', '[["a",10001]]', '[["a",10000,1]]', '[["a",0],["b",10000]]', '[["a","10000"]]'],
)
def test_json_that_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bucket map"):
        from_json(text)


def test_a_previous_map_without_the_right_total_is_refused() -> None:
    with pytest.raises(ValueError, match="10000"):
        next_map((Segment("a", 5),), {"a": 1})
