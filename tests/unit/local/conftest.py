"""The folder that every test of local mode starts from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: sockets in it may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="myl-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
