"""Names and versions of models: those that requests could not give are refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.dataplane.loading import load_served
from modelyard_runtime.errors import LoadFailed
from unit.runtime.support import LOGISTIC, write_model


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    fetch(write_model(tmp_path / "source", LOGISTIC), tmp_path / "volume")
    return tmp_path / "volume"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "a\0", "\ud800", "stats", "churn:predict"])
def test_a_name_that_requests_could_not_give_is_refused(name: str, volume: Path) -> None:
    with pytest.raises(LoadFailed, match="requests could not reach a model of the name"):
        load_served(volume, name=name)


@pytest.mark.parametrize("version", [".", "..", "a/b", "a\nb"])
def test_a_version_that_requests_could_not_give_is_refused(version: str, volume: Path) -> None:
    with pytest.raises(LoadFailed, match="requests could not reach a model of the version"):
        load_served(volume, name="churn", version=version)


@pytest.mark.parametrize("name", ["churn", "a b", "a:b", "a%2Fb", "\u00fcn\u00ef", "a?b#c", "v1.stats", "predict"])
def test_other_names_are_taken(name: str, volume: Path) -> None:
    assert load_served(volume, name=name, version="stats")[0].name == name
