"""The cache of answers: bounded in age and bytes, least recently used first out."""

from __future__ import annotations

import pytest
from modelyard_runtime.dataplane.response_cache import ResponseStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_answer_is_given_until_its_time_is_up(clock: Clock) -> None:
    cache = ResponseStore(ttl=5.0, max_bytes=10_000, clock=clock)
    cache.put("k", b"1", 8)

    clock.now = 4.9
    before = cache.get("k")
    clock.now = 5.0
    after = cache.get("k")

    assert (before, after) == (b"1", None)
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    cache = ResponseStore(ttl=5.0, max_bytes=1500, clock=clock)
    for key in ("a", "b", "c"):
        cache.put(key, key.encode(), 8)
    cache.get("a")

    cache.put("d", b"d", 8)

    assert [cache.get(key) for key in ("a", "b", "c", "d")] == [b"a", None, b"c", b"d"]
    assert cache.bytes <= 1500


def test_an_answer_larger_than_the_cache_is_not_kept(clock: Clock) -> None:
    cache = ResponseStore(ttl=5.0, max_bytes=1500, clock=clock)
    cache.put("small", b"1", 8)

    cache.put("large", bytes(2000), 8)

    assert (cache.get("small"), cache.get("large")) == (b"1", None)


def test_a_key_that_is_put_again_counts_once(clock: Clock) -> None:
    cache = ResponseStore(ttl=5.0, max_bytes=1500, clock=clock)
    cache.put("k", b"1", 8)
    once = cache.bytes

    cache.put("k", b"2", 8)

    assert (cache.get("k"), cache.bytes) == (b"2", once)


@pytest.mark.parametrize(("ttl", "max_bytes"), [(0.0, 10_000), (5.0, 0)])
def test_nothing_is_kept_when_it_is_off(ttl: float, max_bytes: int, clock: Clock) -> None:
    cache = ResponseStore(ttl=ttl, max_bytes=max_bytes, clock=clock)

    cache.put("k", b"1", 8)

    assert cache.get("k") is None


def test_what_an_answer_takes_is_told_by_its_size(clock: Clock) -> None:
    cache = ResponseStore(ttl=5.0, max_bytes=1500, clock=clock, size=lambda answer: answer * 1000)

    for answer in (1, 2):
        cache.put(answer, answer, 8)

    assert (cache.get(1), cache.get(2)) == (1, None)
