"""SIGTERM under load, many times: what fails once in thirty ends would fail in each large rollout."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.runtime.load import WORKERS, end_under_load
from unit.runtime.support import SUM, start_server

RUNS = int(os.environ.get("MODELYARD_SOAK_RUNS", "50"))
DELAYS = ("0", "0.2", "0.5")


@pytest.mark.timeout(60 + 30 * RUNS)
@pytest.mark.parametrize("workers", WORKERS)
def test_no_request_fails_in_any_run(workers: int, say: Callable[[str], None], tmp_path: Path) -> None:
    failures: dict[int, list[str]] = {}
    answers = 0
    with start_server(tmp_path / "new", SUM, MODELYARD_MODEL_VERSION="new") as other:
        other.wait_for("/health/ready", 200)
        said = start = time.monotonic()
        for run in range(RUNS):
            delay = DELAYS[run % len(DELAYS)]
            tally = end_under_load(tmp_path / str(run), other, workers=workers, MODELYARD_DRAIN_DELAY=delay)
            answers += tally.answers.total()
            if tally.failures:
                failures[run] = tally.failures[:5]
            if time.monotonic() - said > 10 or run == RUNS - 1:
                said = time.monotonic()
                say(f"{run + 1} of {RUNS} ends in {said - start:.0f} s: {answers} answers, {len(failures)} ends failed")

    assert failures == {}
