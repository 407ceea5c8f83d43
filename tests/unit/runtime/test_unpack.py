"""Archives: what is unpacked, and that none of them writes outside its folder or fills the disk."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.errors import LoadFailed, StartupFailure, UnsafeArtifact

MODEL = b'{"type": "linear", "weights": [1, 1]}'


def tar_gz(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def zip_of(members: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("churn.tar.gz", tar_gz([(tar_member("model.json"), MODEL)])),
        ("churn.tgz", tar_gz([(tar_member("./churn-4/model.json"), MODEL)])),
        ("churn.zip", zip_of({"model.json": MODEL})),
        ("churn.ZIP", zip_of({"churn/": b"", "churn/model.json": MODEL})),
    ],
)
def test_archives_are_unpacked(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    report = fetch((tmp_path / name).as_uri(), tmp_path / "volume")

    assert report.format == "linear"
    assert [path.read_bytes() for path in (tmp_path / "volume" / "artifact").rglob("*.json")] == [MODEL]


@pytest.mark.parametrize(
    ("name", "content", "error", "advice"),
    [
        ("m.tar.gz", tar_gz([(tar_member("../evil.json"), MODEL)]), UnsafeArtifact, "leaves the folder"),
        ("m.tar.gz", tar_gz([(tar_member("/tmp/evil.json"), MODEL)]), UnsafeArtifact, "leaves the folder"),
        ("m.tar.gz", tar_gz([(tar_member("a", tarfile.SYMTYPE, "/etc"), b"")]), UnsafeArtifact, "link or special"),
        ("m.tar.gz", tar_gz([(tar_member("a", tarfile.LNKTYPE, "b"), b"")]), UnsafeArtifact, "link or special"),
        ("m.tar.gz", tar_gz([(tar_member("a", tarfile.FIFOTYPE), b"")]), UnsafeArtifact, "link or special"),
        ("m.tar.gz", tar_gz([(tar_member("a"), MODEL)] * 2), LoadFailed, "same path twice"),
        ("m.tar.gz", tar_gz([(tar_member("a"), MODEL), (tar_member("a/b"), MODEL)]), LoadFailed, "same path twice"),
        ("m.tar.gz", tar_gz([(tar_member("a"), MODEL)])[:-20], LoadFailed, "can't be unpacked"),
        ("m.tar.gz", b"not an archive", LoadFailed, "can't be unpacked"),
        ("m.tar.gz", b"", LoadFailed, "can't be unpacked"),
        ("m.zip", zip_of({"../evil.json": MODEL}), UnsafeArtifact, "leaves the folder"),
        ("m.zip", zip_of({"a\\..\\evil.json": MODEL}), UnsafeArtifact, "leaves the folder"),
        ("m.zip", zip_of({"a": b"/etc/passwd"}, mode=0o120777), UnsafeArtifact, "link or special"),
        ("m.zip", zip_of({"model.json": MODEL})[:-30], LoadFailed, "can't be unpacked"),
        ("m.zip", b"not an archive", LoadFailed, "can't be unpacked"),
    ],
)
def test_bad_archives_are_refused(
    name: str, content: bytes, error: type[StartupFailure], advice: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(error) as caught:
        fetch((tmp_path / name).as_uri(), tmp_path / "volume")

    assert advice in caught.value.message
    assert list((tmp_path / "volume").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "volume"]


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_a_bomb_stops_at_the_limit(name: str, tmp_path: Path) -> None:
    zeros = bytes(50 * 1024 * 1024)
    content = zip_of({"model.json": zeros}) if name.endswith("zip") else tar_gz([(tar_member("model.json"), zeros)])
    (tmp_path / name).write_bytes(content)

    with pytest.raises(LoadFailed) as caught:
        fetch((tmp_path / name).as_uri(), tmp_path / "volume", max_bytes=1024 * 1024)

    assert "larger than 1048576 bytes" in caught.value.message
    assert list((tmp_path / "volume").iterdir()) == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["tar.gz", "zip"]), st.binary(max_size=8), st.integers(min_value=0))
def test_damaged_archives_fail_with_a_reason(suffix: str, damage: bytes, place: int) -> None:
    """Whatever bytes change, the outcome is a model or a typed failure."""
    whole = tar_gz([(tar_member("model.json"), MODEL)]) if suffix == "tar.gz" else zip_of({"model.json": MODEL})
    place %= len(whole)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"m.{suffix}"
        archive.write_bytes(whole[:place] + damage + whole[place + len(damage) :])

        with suppress(StartupFailure):
            fetch(archive.as_uri(), Path(folder) / "volume")

        assert sorted(path.name for path in Path(folder).iterdir()) == [f"m.{suffix}", "volume"]
