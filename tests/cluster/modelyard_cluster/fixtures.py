"""pytest fixtures: a control plane, a cluster with a node, and a namespace on each.

Import them in a `conftest.py`. However often they are imported, one test run has one control plane and one cluster:
they are kept by the run's configuration, not by the fixture.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import pytest

from .cluster import Cluster
from .control_plane import ControlPlane
from .errors import MissingPrerequisite

__all__ = ["control_plane", "namespace", "node_cluster", "node_namespace"]

_CONTROL_PLANE = pytest.StashKey[ControlPlane]()
_CLUSTER = pytest.StashKey[Cluster]()

Started = TypeVar("Started", ControlPlane, Cluster)


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    """A running control plane, without nodes, shared by the whole run; it writes an audit log."""
    return _shared(
        pytestconfig, _CONTROL_PLANE, lambda: ControlPlane(tmp_path_factory.mktemp("control-plane"), audit=True)
    )


@pytest.fixture(scope="session")
def node_cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A running cluster with a node, shared by the whole run; takes root."""
    return _shared(pytestconfig, _CLUSTER, lambda: Cluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture
def namespace(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of this test's own on the control plane."""
    with control_plane.namespace(_name(request)) as name:
        yield name


@pytest.fixture
def node_namespace(request: pytest.FixtureRequest, node_cluster: Cluster) -> Iterator[str]:
    """A namespace of this test's own on the cluster with a node."""
    with node_cluster.control_plane.namespace(_name(request)) as name:
        yield name


def _name(request: pytest.FixtureRequest) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    return f"{words}-{secrets.token_hex(3)}"


def _shared(config: pytest.Config, key: pytest.StashKey[Started], make: Callable[[], Started]) -> Started:
    if key not in config.stash:
        started = make()
        try:
            started.start()
        except MissingPrerequisite as error:
            started.stop()
            _give_up(str(error))
        except BaseException:
            started.stop()
            raise
        config.stash[key] = started
        config.add_cleanup(started.stop)
    return config.stash[key]


def _give_up(reason: str) -> NoReturn:
    """Skip, or fail where everything has to run."""
    if os.environ.get("MODELYARD_REQUIRE_ALL") == "1":
        pytest.fail(f"MODELYARD_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)
