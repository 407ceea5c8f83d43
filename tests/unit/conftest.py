"""Every `async def` test runs on asyncio, the event loop of all that is tested (`anyio_mode` in pyproject.toml)."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
