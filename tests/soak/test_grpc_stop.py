"""The ways to end a gRPC server, and the calls that each of them loses: why ours writes GOAWAY itself."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from unit.runtime.rpc.ends.ends import end_under_load
from unit.runtime.rpc.ends.environment import lowest_grpcio
from unit.runtime.rpc.ends.server import MODES

RUNS = int(os.environ.get("MODELYARD_SOAK_RUNS", "10"))


@pytest.mark.timeout(60 + 20 * RUNS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("health_checked", [False, True], ids=["pick_first", "health_checked"])
@pytest.mark.parametrize("version", ["lowest", "installed"])
def test_calls_lost(version: str, health_checked: bool, mode: str, say: Callable[[str], None]) -> None:
    """Only what the runtime does is held to lose none; the others are for people to read."""
    python = lowest_grpcio() if version == "lowest" else sys.executable
    lost: Counter[str] = Counter()
    ends = 0
    for _ in range(RUNS):
        found = end_under_load(mode, python=python, health_checked=health_checked)
        ends += bool(found)
        lost += found

    say(f"{MODES[mode].description}: {lost.total()} calls lost in {ends} of {RUNS} ends {dict(lost.most_common(2))}")
    assert mode != "goaway" or not lost
