"""The world of a router: what every test here starts from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .harness import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world
