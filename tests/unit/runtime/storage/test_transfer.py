"""Progress lines and retries, with a clock that stands still unless it is moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard_runtime.artifacts.copy import Budget
from modelyard_runtime.artifacts.transfer import Incoming, Transfer, Transient
from modelyard_runtime.errors import LoadFailed

MEGABYTE = bytes(1_000_000)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []
        self.lines: list[str] = []
        self.transfer = Transfer(
            Budget.of(10**9), sleep=self.pauses.append, now=lambda: self.time, say=self.lines.append
        )


def test_a_large_file_is_announced_and_told_of_every_ten_seconds(tmp_path: Path) -> None:
    clock = Clock()

    with Incoming(tmp_path / "m", clock.transfer, "s3://models/m", 100_000_000) as incoming:
        for _ in range(25):
            clock.time += 1
            incoming.write(MEGABYTE)

    assert clock.lines == [
        "fetching s3://models/m: 100.0 MB",
        "fetching s3://models/m: 10.0 MB of 100.0 MB (10%), 1.0 MB/s",
        "fetching s3://models/m: 20.0 MB of 100.0 MB (20%), 1.0 MB/s",
    ]


def test_a_small_file_is_not_worth_a_line(tmp_path: Path) -> None:
    clock = Clock()

    with Incoming(tmp_path / "m", clock.transfer, "s3://models/m", 1_000_000) as incoming:
        incoming.write(MEGABYTE)

    assert clock.lines == []


def test_progress_starts_the_count_of_attempts_anew(tmp_path: Path) -> None:
    clock = Clock()
    left = 20

    with Incoming(tmp_path / "m", clock.transfer, "m") as incoming:

        def attempt() -> int:
            nonlocal left
            left -= 1
            incoming.write(MEGABYTE * 2)
            if left:
                raise Transient("the connection broke")
            return incoming.size

        assert clock.transfer.retry("m", attempt, incoming) == 40_000_000

    assert clock.pauses == [0.5] * 19


def test_five_failures_in_a_row_are_the_end() -> None:
    clock = Clock()

    def attempt() -> None:
        raise Transient("the server answers 503")

    with pytest.raises(LoadFailed, match="s3://models/m: the server answers 503, 5 times"):
        clock.transfer.retry("s3://models/m", attempt)
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0]


def test_a_restart_gives_the_budget_back(tmp_path: Path) -> None:
    transfer = Transfer(Budget.of(1_500_000))

    with Incoming(tmp_path / "m", transfer, "m") as incoming:
        incoming.write(MEGABYTE)
        incoming.restart()
        incoming.write(MEGABYTE)
        with pytest.raises(LoadFailed, match="larger than 1500000 bytes"):
            incoming.write(MEGABYTE)

    assert (tmp_path / "m").stat().st_size == 1_000_000
