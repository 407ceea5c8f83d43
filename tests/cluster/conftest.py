"""Fixtures for tests on a real control plane."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard_cluster.control_plane import ControlPlane

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("cp")) as cp:
        yield cp


_n = itertools.count()


@pytest.fixture
def namespace(control_plane):
    n = f"t{next(_n)}"
    control_plane.kubectl("create", "namespace", n)
    return n


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Modelyard's kinds."""
    control_plane.kubectl("apply", "-f", str(REPOSITORY / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return control_plane
