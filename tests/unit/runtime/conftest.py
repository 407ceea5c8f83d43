from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from unit.runtime.support import Api


@pytest.fixture
def serve() -> Iterator[Callable[..., Api]]:
    """Make applications whose threads end with the test."""
    apis: list[Api] = []

    def make(models: Any, **settings: Any) -> Api:
        apis.append(Api(models, **settings))
        return apis[-1]

    yield make
    for api in apis:
        api.app.close()
