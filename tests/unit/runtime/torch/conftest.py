"""Fixtures: the artifacts, which PyTorch writes once for all tests here; skipped where it can't be had."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from modelyard_cluster.errors import MissingPrerequisite
from modelyard_runtime.artifacts.fetch import fetch
from unit.runtime.support import Server, start_server
from unit.runtime.torch.environment import REPOSITORY, ask, torch_python

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def python() -> Path:
    """Return a Python that has PyTorch."""
    try:
        return torch_python()
    except MissingPrerequisite as exc:
        if os.environ.get("MODELYARD_REQUIRE_ALL") == "1":
            pytest.fail(f"MODELYARD_REQUIRE_ALL=1, but {exc}", pytrace=False)
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def artifacts(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an artifact of each kind, and answers.json: what their modules say."""
    folder = tmp_path_factory.mktemp("artifacts")
    ask(HERE / "artifacts.py", folder)
    return folder


@pytest.fixture(scope="session")
def answers(artifacts: Path) -> dict[str, Any]:
    """Return what the modules themselves answer, by artifact."""
    found: dict[str, Any] = json.loads((artifacts / "answers.json").read_bytes())
    return found


@pytest.fixture(scope="session")
def told(artifacts: Path) -> dict[str, Any]:
    """Return what became of each artifact when it was loaded, where all of them are allowed."""
    ask(HERE / "loads.py", artifacts)
    found: dict[str, Any] = json.loads((artifacts / "told.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def serve_artifact(
    python: Path, artifacts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Start a server with PyTorch on an artifact, once for each; it may run code unless `env` says otherwise."""
    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def start(name: str, **env: Any) -> Server:
            if name not in servers:
                folder = tmp_path_factory.mktemp(name)
                fetch((artifacts / name).as_uri(), folder / "volume", allow_pickle=True)
                env = {"PYTHONPATH": str(REPOSITORY / "runtime"), "MODELYARD_ALLOW_PICKLE": "true", **env}
                servers[name] = stack.enter_context(start_server(folder, python=python, **env))
            return servers[name]

        yield start
