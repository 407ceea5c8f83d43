"""Artifacts under fuzz: archives and JSON models that somebody else wrote load, or fail with a typed reason."""

from __future__ import annotations

import gzip
import io
import json
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.artifacts.copy import Budget
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.artifacts.unpack import unpack_layer
from modelyard_runtime.errors import LoadFailed, StartupFailure
from modelyard_runtime.formats import linear as linear_format
from modelyard_runtime.formats import logistic
from unit.runtime.fuzz.damage import damaged, troublesome
from unit.runtime.test_unpack import MODEL, tar_gz, tar_member, zip_of

MIB = 1024 * 1024
PARTS = st.sampled_from(
    ["a", "b", "..", ".", "", "model.json", "/", "\\", "é", "\n", "C:", "a" * 300, " ", "~", ".wh.a"]
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    [
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE),
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z", b"x", b"L"),
    ]
)
MODES = st.sampled_from(
    [
        0,
        stat.S_IFREG | 0o644,
        stat.S_IFLNK | 0o777,
        stat.S_IFIFO,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFSOCK,
        stat.S_IFDIR,
    ]
)


def outcome(name: str, content: bytes, **limits: Any) -> tuple[list[str], StartupFailure | None]:
    """Fetch an archive; return what lies beside the volume, links and special files in it, and the failure if any."""
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "in" / name
        archive.parent.mkdir()
        archive.write_bytes(content)
        volume = Path(folder) / "volume"
        try:
            fetch(archive.as_uri(), volume, **limits)
        except StartupFailure as exc:
            failure = exc
            assert list(volume.iterdir()) == []
        strange = [
            str(path) for path in volume.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())
        ]
        beside = sorted(path.name for path in Path(folder).iterdir() if path.name not in ("in", "volume"))
        beside += [path.name for path in archive.parent.iterdir() if path != archive]
    return beside + strange, failure


@settings(max_examples=150, deadline=None)
@given(members=st.lists(st.tuples(NAMES, KINDS, st.sampled_from([b"", MODEL, bytes(2000)]), NAMES), max_size=4))
def test_any_members_of_a_tar_stay_inside(members: list[tuple[str, bytes, bytes, str]]) -> None:
    content = tar_gz([(tar_member(name, kind, target), data) for name, kind, data, target in members])

    strange, _ = outcome("m.tar.gz", content)

    assert strange == []


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # what zipfile says of the archive that we write
@settings(max_examples=150, deadline=None)
@given(members=st.lists(st.tuples(NAMES, MODES, st.sampled_from([b"", MODEL, bytes(2000)])), max_size=4))
def test_any_members_of_a_zip_stay_inside(members: list[tuple[str, int, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, mode, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            bundle.writestr(info, data)

    strange, _ = outcome("m.zip", buffer.getvalue())

    assert strange == []


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_headers_fail_with_a_reason(data: st.DataObject) -> None:
    """Damage below the compression, where no checksum finds it."""
    tar = gzip.decompress(tar_gz([(tar_member("a/model.json"), MODEL), (tar_member("b" * 120), MODEL)]))
    archives = {
        "m.tar.gz": lambda: gzip.compress(data.draw(damaged(tar)), 1),
        "m.zip": lambda: data.draw(damaged(zip_of({"é/model.json": MODEL, "b": b"x" * 50}))),
    }
    name = data.draw(st.sampled_from(sorted(archives)))

    strange, _ = outcome(name, archives[name]())

    assert strange == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.zip", zip_of({"aé": MODEL}).replace("é".encode(), b"\xff\xfe")),
        ("m.zip", zip_of({"": MODEL})),
        ("m.tar.gz", tar_gz([(tar_member(""), MODEL)])),
        ("m.zip", zip_of({"a" * 300: MODEL})),
        ("m.tar.gz", tar_gz([(tar_member("a" * 300), MODEL)])),
        ("m.tar.gz", tar_gz([(tar_member("model.json", tarfile.GNUTYPE_SPARSE), MODEL)])),
    ],
)
def test_odd_names_and_kinds_fail_with_a_reason(name: str, content: bytes) -> None:
    strange, failure = outcome(name, content)

    assert strange == []
    assert failure is not None


def header_bomb(kind: bytes) -> bytes:
    """Return a tar of one header that announces, and has, 64 MiB of names or attributes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 * MIB
    return info.tobuf(tarfile.GNU_FORMAT) + b"a" * (64 * MIB)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("layer", [False, True])
def test_a_header_does_not_fill_the_memory(kind: bytes, layer: bool, tmp_path: Path) -> None:
    """The budget counts what is written, and nothing is written yet."""
    archive = tmp_path / "m.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(header_bomb(kind))
    (tmp_path / "out").mkdir()
    take: Callable[[], Any] = lambda: fetch(archive.as_uri(), tmp_path / "volume")  # noqa: E731
    if layer:
        take = lambda: unpack_layer(archive, tmp_path / "out", Budget.of(1000 * MIB), name="layer")  # noqa: E731

    tracemalloc.start()
    try:
        with pytest.raises(LoadFailed, match="holds a header of more than 2097152 bytes"):
            take()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 * MIB


@pytest.mark.parametrize("compress", ["", "gz", "bz2", "xz"])
def test_a_layer_is_read_however_it_is_compressed_and_what_is_skipped_is_no_header(
    compress: Literal["", "gz", "bz2", "xz"], tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    with tarfile.open(layer, f"w:{compress}") as tar:  # type: ignore[call-overload] # typeshed lists whole modes
        for name, content in (("other/large", bytes(5 * MIB)), ("models/model.json", MODEL)):
            info = tar_member(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "out").mkdir()

    unpack_layer(layer, tmp_path / "out", Budget.of(MIB), name="layer", below="models")

    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("model.json", MODEL)]


FIELDS = {
    "type": "logistic",
    "weights": [[1, 2.5], [3, -4]],
    "bias": [0.5, 1],
    "classes": ["a", "b"],
    "feature_names": ["x", "y"],
    "metadata": {"performance": {"accuracy": "0.9"}},
}
LOADERS = {"linear": linear_format.load, "logistic": logistic.load}


def load(kind: str, text: bytes) -> Any:
    """Load a model file, past what turns any exception into LoadFailed; None where it is refused with a reason."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        path.write_bytes(text)
        try:
            return LOADERS[kind](path)
        except LoadFailed:
            return None


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(LOADERS)), text=damaged(json.dumps(FIELDS).encode()))
def test_a_damaged_model_loads_or_fails_with_a_reason(kind: str, text: bytes) -> None:
    model = load(kind, text)

    if model is not None:
        assert len(model.infer({"features": np.zeros((2, model.features))})["prediction"]) == 2


@pytest.mark.parametrize("kind", sorted(LOADERS))
@pytest.mark.parametrize("field", ["weights", "bias", "classes", "feature_names", "metadata"])
def test_troublesome_fields_load_or_fail_with_a_reason(kind: str, field: str) -> None:
    rest = json.dumps({name: value for name, value in FIELDS.items() if name not in (field, "classes")}).encode()

    for body in troublesome(field):
        load(kind, body)
        load(kind, rest[:-1] + b", " + body[1:])


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5),
    bias=st.floats(-1e6, 1e6),
    row=st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5),
)
def test_linear_models_are_read_as_json_writes_them(weights: list[float], bias: float, row: list[float]) -> None:
    model = load("linear", json.dumps({"weights": weights, "bias": bias}).encode())
    rows = np.array([row[: len(weights)]])

    np.testing.assert_array_equal(model.predict(rows), rows @ np.array(weights) + bias)
