from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from unit.runtime.differential.ways import Ways, started


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """The two servers that every test of this folder compares."""
    folder = tmp_path_factory.mktemp("differential")
    with ExitStack() as stack:
        yield Ways(*(stack.enter_context(started(folder, shortcuts=shortcuts)) for shortcuts in (True, False)))
