"""Fixtures: an application with one model."""

from __future__ import annotations

import pytest
from unit.runtime.cached_answers.support import Serve
from unit.runtime.support import Api, FakeModel


@pytest.fixture
def api(serve: Serve) -> Api:
    return serve({"m": FakeModel()})
