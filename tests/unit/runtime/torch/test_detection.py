"""PyTorch's archives, told apart by what is in them."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest
from modelyard_runtime.artifacts import detect
from modelyard_runtime.errors import LoadFailed, UnsafeArtifact


def archive(path: Path, *names: str) -> None:
    with ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")


@pytest.mark.parametrize(
    "names", [["m/models/model.json"], ["serialized_exported_program.json"], ["m/constants.pkl", "m/code/a.py"]]
)
def test_exported_programs_and_torchscript_are_found(names: list[str], tmp_path: Path) -> None:
    archive(tmp_path / "net.pt", *names)

    assert detect(tmp_path).format == "torch"


def test_what_torch_save_wrote_is_refused_with_what_to_do(tmp_path: Path) -> None:
    archive(tmp_path / "net.pt", "net/data.pkl", "net/data/0")

    with pytest.raises(UnsafeArtifact, match=r"state dict.*torch\.export\.save"):
        detect(tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"nothing")

    with pytest.raises(LoadFailed, match=r"torch\.export\.save"):
        detect(tmp_path)
