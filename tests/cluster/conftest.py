"""Fixtures for tests on a real control plane."""

from pathlib import Path

import pytest
from modelyard_cluster.control_plane import ControlPlane
from modelyard_cluster.fixtures import control_plane, namespace, node_cluster

__all__ = ["control_plane", "crds", "namespace", "node_cluster"]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Modelyard's kinds."""
    control_plane.kubectl("apply", "-f", str(REPOSITORY / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    return control_plane
