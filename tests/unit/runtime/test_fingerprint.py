"""What tells inputs apart in the cache: all that a model could tell apart, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.dataplane.fingerprint import bytes_of, fingerprint

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0]) | st.text(max_size=2)


def objects(*values: Any) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def key(values: Any, name: str = "x") -> Any:
    return fingerprint({name: np.asarray(values)})[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1.0]), np.array([1])),
        (np.array([1], np.int32), np.array([1], np.int64)),
        (np.array([1.0], "<f8"), np.array([1.0], ">f8")),
        (np.array([[1.0, 2.0]]), np.array([[1.0], [2.0]])),
        (np.zeros(10_000), np.append(np.zeros(9_999), 1)),
        (objects(1), objects(True)),
        (objects(1), objects(1.0)),
        (objects(0.0), objects(-0.0)),
        (objects("1"), objects(1)),
        (objects("ab", "c"), objects("a", "bc")),
        (objects("a', 'b"), objects("a", "b")),
        (objects("a" * 9_000), objects("a" * 9_000 + "b")),
        (objects("\ud800"), objects("\\ud800")),
    ],
)
def test_different_inputs_are_told_apart(one: Any, other: Any) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.array([np.nan]),
        lambda: np.zeros((100, 100)),
        lambda: objects(float("nan"), "é"),
        lambda: objects("a" * 9_000),
        objects,
    ],
)
def test_equal_inputs_are_equal_whoever_made_them(make: Callable[[], Any]) -> None:
    assert key(make()) == key(make())
    assert hash(key(make())) == hash(key(make()))


def test_an_array_is_read_in_its_own_order() -> None:
    values = np.arange(6.0).reshape(2, 3)

    assert key(values) == key(np.asfortranarray(values)) != key(values[:, ::-1])


def test_names_and_their_order_count() -> None:
    one, two = np.array([1.0]), np.array([2.0])

    keys = [fingerprint(inputs)[0] for inputs in ({"a": one, "b": two}, {"b": two, "a": one}, {"a": two, "b": one})]

    assert len(set(keys)) == 3


@given(one=st.lists(VALUES, max_size=3), other=st.lists(VALUES, max_size=3))
def test_objects_are_equal_when_their_types_and_values_are(one: list[Any], other: list[Any]) -> None:
    same = [(type(value), str(value)) for value in one] == [(type(value), str(value)) for value in other]

    assert (key(objects(*one)) == key(objects(*other))) is same


def test_a_key_tells_what_it_takes_and_a_large_input_takes_little() -> None:
    sizes = [fingerprint({"x": values})[1] for values in (np.zeros(100), objects("a" * 1000), np.zeros(100_000))]

    assert [size > least for size, least in zip(sizes, (800, 1000, 0), strict=True)] == [True] * 3
    assert sizes[2] < 1000


def test_the_bytes_of_text_count() -> None:
    assert bytes_of(objects("a" * 10_000)) > 10_000
    assert bytes_of(np.zeros(1000)) > 8000
