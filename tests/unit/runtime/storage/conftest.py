"""Fixtures: each server once for the tests of a file, and an environment that holds no credentials of the machine's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from modelyard_cluster.errors import MissingPrerequisite
from unit.runtime.storage import servers
from unit.runtime.storage.servers import Server

_FOREIGN = ("AWS_", "GOOGLE_", "AZURE_", "HF_", "OCI_", "DOCKER_", "MODELYARD_DOCKER")


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Server]]:
    """Start a server by its scheme; skip where this machine can't have it."""

    def make(scheme: str, **options: str) -> AbstractContextManager[Server]:
        return _or_skip(getattr(servers, scheme)(tmp_path_factory.mktemp(scheme), **options))

    return make


@contextmanager
def _or_skip(server: AbstractContextManager[Server]) -> Iterator[Server]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server)
        except MissingPrerequisite as exc:
            if os.environ.get("MODELYARD_REQUIRE_ALL") == "1":
                pytest.fail(f"MODELYARD_REQUIRE_ALL=1, but {exc}", pytrace=False)
            pytest.skip(str(exc))
        yield running


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest, start: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    """Each of the three object storages in turn."""
    with start(request.param) as running:
        yield running
