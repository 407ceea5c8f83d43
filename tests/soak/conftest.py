from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line at once, whatever pytest captures: these tests take minutes, and should not seem to hang."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"  {line}", flush=True)

    return say
