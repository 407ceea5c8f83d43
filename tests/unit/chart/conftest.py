"""The chart, and the Helm to render it with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from modelyard_cluster.binaries import Binaries
from modelyard_cluster.errors import ClusterError

from .harness import REPOSITORY, Chart


@pytest.fixture(scope="session")
def helm() -> Path:
    """The real Helm, 3.8 or newer: HELM, PATH, the cache of the test cluster, or built into it."""
    named = os.environ.get("HELM") or shutil.which("helm")
    if named:
        return Path(named)
    try:
        return Binaries().path("helm")
    except ClusterError as error:
        pytest.skip(f"no Helm here (set HELM, or put it on PATH): {error}")


@pytest.fixture(scope="session")
def chart(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(helm, REPOSITORY / "helm" / "modelyard", tmp_path_factory.mktemp("helm"))


@pytest.fixture
def repository() -> Path:
    return REPOSITORY
