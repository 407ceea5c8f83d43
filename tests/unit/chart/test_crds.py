"""The CRDs of the chart are those of crds/, upgrade with it and outlive it; scripts/generate keeps them alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .harness import Chart


def generated(repository: Path) -> dict[str, dict[str, Any]]:
    crds = [yaml.safe_load(path.read_text()) for path in (repository / "crds").glob("*.yaml")]
    return {crd["metadata"]["name"]: crd for crd in crds}


@pytest.mark.parametrize("keep", [True, False])
def test_the_chart_renders_the_generated_crds(chart: Chart, repository: Path, keep: bool) -> None:
    rendered = chart.render(crds={"keep": keep}).of_kind("CustomResourceDefinition")

    assert not (chart.folder / "crds").exists()  # Helm would never upgrade what lies there
    assert len(rendered) == 2
    for crd in rendered:
        metadata = crd["metadata"]
        annotations = {"helm.sh/resource-policy": "keep"} if keep else None
        assert metadata.pop("annotations", None) == annotations
        assert metadata.pop("labels")["app.kubernetes.io/managed-by"] == "Helm"
        assert crd == generated(repository)[metadata["name"]]


def test_nothing_is_written_that_an_api_server_would_not_keep(repository: Path) -> None:
    """Helm and GitOps tools compare what they applied with what is there."""

    def empty(value: Any, path: str) -> list[str]:
        if isinstance(value, dict):
            below = [found for key, child in value.items() for found in empty(child, f"{path}.{key}")]
            return below if value or path.endswith((".default", ".status")) else [path]
        return [found for item in value for found in empty(item, path)] if isinstance(value, list) else []

    assert [path for name, crd in generated(repository).items() for path in empty(crd, name)] == []


def test_crds_can_be_left_to_others(chart: Chart) -> None:
    assert chart.render(crds={"install": False}).of_kind("CustomResourceDefinition") == []


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    for folder in ("scripts", "crds", "helm", "runtime/modelyard_runtime/protocols/rpc", "tests/cluster"):
        shutil.copytree(repository / folder, tmp_path / folder)
    (tmp_path / "docs").mkdir()
    keys = "operator/modelyard_operator/manifests/merge_keys.py"
    (tmp_path / keys).parent.mkdir(parents=True)
    for file in ("runtime/modelyard_runtime/contract.py", "README.md", "docs/formats.md", keys):
        shutil.copy(repository / file, tmp_path / file)
    return tmp_path


def generate(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts" / "generate", *arguments],
        env={**os.environ, "MODELYARD_VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_committed_is_up_to_date(checkout: Path) -> None:
    done = generate(checkout, "--check")

    assert done.returncode == 0, done.stdout + done.stderr


def test_stale_copies_are_shown_and_then_written_anew(checkout: Path) -> None:
    stale, left_over = checkout / "crds/abtests.yaml", checkout / "helm/modelyard/files/crds/gone.yaml"
    good = stale.read_text()
    stale.write_text(good.replace("kind: ABTest\n", "kind: Other\n"))
    left_over.write_text("kind: Gone\n")

    check = generate(checkout, "--check")

    assert check.returncode == 1
    assert "+    kind: ABTest" in check.stdout
    assert "-kind: Gone" in check.stdout
    assert "out of date: crds helm/modelyard/files/crds;" in check.stderr
    assert stale.read_text() != good
    assert generate(checkout).returncode == 0
    assert stale.read_text() == good
    assert not left_over.exists()


def test_a_stale_list_of_formats_is_shown_and_then_written_anew(checkout: Path) -> None:
    files = [checkout / name for name in ("runtime/modelyard_runtime/contract.py", "README.md", "docs/formats.md")]
    good = [file.read_text() for file in files]
    for file, text in zip(files, good, strict=True):
        file.write_text(text.replace('"catboost", ', "").replace("| `catboost` |", "| `dogboost` |"))

    check = generate(checkout, "--check")

    assert check.returncode == 1
    assert "out of date: the lists of formats;" in check.stderr
    assert all(f"out of date: {file.relative_to(checkout)}" in check.stdout for file in files)
    assert generate(checkout).returncode == 0
    assert [file.read_text() for file in files] == good


def test_an_unknown_option_writes_nothing(checkout: Path) -> None:
    done = generate(checkout, "--chekc")

    assert done.returncode == 1
    assert "usage" in done.stderr
