"""Clients are sent away from a gRPC server before it stops, whichever grpcio it runs on, and lose no call."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import grpc
import pytest
from modelyard_cluster.errors import MissingPrerequisite
from unit.runtime.rpc.ends.ends import end_under_load
from unit.runtime.rpc.ends.environment import LOCK, lowest_grpcio

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture(params=["lowest", "installed"])
def python(request: pytest.FixtureRequest) -> str | Path:
    if request.param == "installed":
        return sys.executable
    try:
        return lowest_grpcio()
    except MissingPrerequisite as exc:
        pytest.skip(str(exc))


def test_the_versions_are_the_lowest_and_a_newer_one() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (lowest,) = [need.removeprefix("grpcio>=") for need in extras["runtime"] if need.startswith("grpcio>=")]

    (locked,) = re.findall(r"^grpcio==(\S+)", LOCK.read_text(), re.MULTILINE)

    assert locked.startswith(f"{lowest}.")
    assert grpc.__version__ != locked


@pytest.mark.parametrize("health_checked", [False, True])
def test_no_call_is_lost(health_checked: bool, python: str | Path) -> None:
    for _ in range(3):
        assert end_under_load("goaway", python=python, health_checked=health_checked) == {}
