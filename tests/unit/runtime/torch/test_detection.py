"""PyTorch's files, found by what is in them."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from modelyard_runtime.errors import LoadFailed, UnknownFormat, UnsafeArtifact
from modelyard_runtime.formats import detect, load_model

PROGRAM = ("m/archive_format", "m/models/model.json")
OLD_PROGRAM = ("serialized_exported_program.json", "version")
SCRIPT = ("m/constants.pkl", "m/code/a.py", "m/data.pkl")
PICKLE = ("m/data.pkl", "m/data/0")
LINEAR = {"type": "linear", "weights": [1]}


def archive(path: Path, names: tuple[str, ...] = SCRIPT) -> Path:
    with ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return path


@pytest.mark.parametrize("names", [PROGRAM, OLD_PROGRAM, SCRIPT, PICKLE])
@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.pth", "NET.TS"])
@pytest.mark.parametrize("wanted", ["", "torch"])
def test_they_are_found_where_they_are_allowed(name: str, names: tuple[str, ...], wanted: str, tmp_path: Path) -> None:
    archive(tmp_path / name, names)
    (tmp_path / "signature.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")

    found = detect(tmp_path, wanted, allow_pickle=True)

    assert (found.format, found.path.name) == ("torch", name)
    with pytest.raises(UnsafeArtifact, match="allowPickle: true"):
        detect(tmp_path, wanted)


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 and no archive", b"PK\x05\x06" + b"\xff" * 18])
def test_a_name_alone_makes_no_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(content)

    with pytest.raises(UnknownFormat, match=r"no format matches: .*torch\.export\.save"):
        detect(tmp_path, allow_pickle=True)
    with pytest.raises(UnknownFormat, match=r"the format torch needs \*\.pt2"):
        detect(tmp_path, "torch", allow_pickle=True)


def test_an_archive_of_something_else_is_none_of_pytorchs(tmp_path: Path) -> None:
    archive(tmp_path / "net.pt", ("readme.txt", "models/a.onnx"))

    with pytest.raises(UnknownFormat, match="no format matches"):
        detect(tmp_path, allow_pickle=True)


def test_a_plain_pickle_of_that_name_is_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(pickle.dumps(1))

    with pytest.raises(UnsafeArtifact, match="save it with skops"):
        detect(tmp_path)
    assert detect(tmp_path, allow_pickle=True).format == "sklearn"


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("odd", [("best.pt", "last.pt"), ("best.pt",)])
@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("net.onnx", b"", "onnx"),
        ("churn.json", json.dumps(LINEAR).encode(), "linear"),
        ("model.txt", b"tree\n", "lightgbm"),
        ("MLmodel", b"", "mlflow"),
    ],
)
def test_other_formats_are_found_beside_them(
    name: str, content: bytes, format: str, odd: tuple[str, ...], allow: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    for other in odd:
        archive(tmp_path / other)
    (tmp_path / "broken.pt").write_bytes(b"PK")

    assert detect(tmp_path, allow_pickle=allow).format == format


def test_the_spec_chooses_them_beside_another_format(tmp_path: Path) -> None:
    archive(tmp_path / "net.pt")
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "model.json").write_text("{}")

    assert detect(tmp_path, "torch", allow_pickle=True).path.name == "net.pt"


def test_which_of_several_is_asked(tmp_path: Path) -> None:
    archive(tmp_path / "best.pt")
    archive(tmp_path / "last.pt")

    with pytest.raises(UnknownFormat, match=r"best\.pt, last\.pt; name the right one model\.pt"):
        detect(tmp_path, allow_pickle=True)
    archive(tmp_path / "model.pt")
    assert detect(tmp_path, allow_pickle=True).path.name == "model.pt"


def test_a_pickle_beside_them_has_to_be_told_apart_by_the_spec(tmp_path: Path) -> None:
    archive(tmp_path / "net.pt")
    (tmp_path / "scaler.pkl").write_bytes(pickle.dumps(1))

    with pytest.raises(UnknownFormat, match=r"say which with spec\.model\.format"):
        detect(tmp_path, allow_pickle=True)
    assert detect(tmp_path, "torch", allow_pickle=True).path.name == "net.pt"


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    archive(tmp_path / "net.pt")

    with pytest.raises(LoadFailed, match=r"torch is not installed; pip install 'modelyard\[torch\]'"):
        load_model(detect(tmp_path, allow_pickle=True))
