"""Folders and archives as people's tools leave them: the model among other files is found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.errors import LoadFailed, UnsafeArtifact
from modelyard_runtime.formats.detect import detect
from modelyard_runtime.formats.xgboost import load
from unit.runtime.support import LOGISTIC
from unit.runtime.test_unpack import tar_gz, tar_member

MODEL = json.dumps(LOGISTIC).encode()
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0"


def write(path: Path, content: bytes = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _config_map(root: Path) -> None:
    write(root / "..2026_11_25/model.json")
    (root / "..data").symlink_to("..2026_11_25")
    (root / "model.json").symlink_to("..data/model.json")


def _config_map_with_a_folder(root: Path) -> None:
    write(root / "..2026_11_25/churn/model.json")
    (root / "..data").symlink_to("..2026_11_25")
    (root / "churn").symlink_to("..data/churn")


def _volume(root: Path) -> None:
    write(root / "churn/model.json")
    write(root / "lost+found/#12", b"of another time")


def _finder(root: Path) -> None:
    write(root / "model.json")
    write(root / ".DS_Store", b"\0")
    write(root / "._model.json", APPLE_DOUBLE)
    write(root / "._model.ubj", APPLE_DOUBLE)


def _readme_beside_a_folder(root: Path) -> None:
    write(root / "churn/model.json")
    write(root / "README.md", b"# Churn")
    write(root / "LICENSE", b"as is")


def _repository(root: Path) -> None:
    write(root / "model.json")
    write(root / "README.md", b"# Churn")
    write(root / ".gitattributes", b"* text")
    write(root / ".cache/huggingface/model.json", b"{}")


def _one_archive(root: Path) -> None:
    write(root / "output/model.tar.gz", tar_gz([(tar_member("model.json"), MODEL)]))


def _one_archive_with_a_readme(root: Path) -> None:
    write(root / "model.tar.gz", tar_gz([(tar_member("churn/model.json"), MODEL)]))
    write(root / "README.md", b"# Churn")


@pytest.mark.parametrize(
    "make",
    [
        _config_map,
        _config_map_with_a_folder,
        _volume,
        _finder,
        _readme_beside_a_folder,
        _repository,
        _one_archive,
        _one_archive_with_a_readme,
    ],
)
def test_the_model_of_a_folder_is_found(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "source")

    report = fetch((tmp_path / "source").as_uri(), tmp_path / "volume")

    assert report.format == "logistic"
    assert detect(tmp_path / "volume/artifact").path.read_bytes() == MODEL


def test_housekeeping_of_volumes_is_not_part_of_the_artifact(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain/model.json").parent
    _config_map(tmp_path / "mounted")
    write(tmp_path / "mounted/lost+found/#12", b"of another time")

    reports = [fetch(folder.as_uri(), tmp_path / "volume") for folder in (plain, tmp_path / "mounted")]

    assert reports[0].digest == reports[1].digest
    assert [path.name for path in (tmp_path / "volume/artifact").iterdir()] == ["model.json"]


def test_an_archive_of_macos_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "churn.zip", "w") as bundle:
        bundle.writestr("churn/model.json", MODEL)
        bundle.writestr("churn/._model.json", APPLE_DOUBLE)
        bundle.writestr("__MACOSX/churn/._model.json", APPLE_DOUBLE)

    assert fetch((tmp_path / "churn.zip").as_uri(), tmp_path / "volume").format == "logistic"


def test_another_server_gets_a_folder_as_it_is(tmp_path: Path) -> None:
    archive = write(tmp_path / "source/model.zip", b"whatever it is")

    fetch(archive.parent.as_uri(), tmp_path / "volume", format="any")

    assert (tmp_path / "volume/artifact/model.zip").read_bytes() == b"whatever it is"


def _cache(root: Path) -> Path:
    """Make a Hugging Face cache, as huggingface_hub lays it out; return the snapshot."""
    snapshot = root / "models--acme--churn/snapshots/0123abcd"
    write(snapshot.parent.parent / "blobs/9f86d081")
    snapshot.mkdir(parents=True)
    (snapshot / "model.json").symlink_to("../../blobs/9f86d081")
    return snapshot


@pytest.mark.parametrize("scheme", ["file", "pvc"])
def test_a_snapshot_of_a_hugging_face_cache_is_fetched(scheme: str, tmp_path: Path) -> None:
    snapshot = _cache(tmp_path / "claim")
    uri = snapshot.as_uri() if scheme == "file" else f"pvc://models/{snapshot.relative_to(tmp_path / 'claim')}"

    report = fetch(uri, tmp_path / "volume", claim_root=tmp_path / "claim")

    assert (report.format, report.bytes) == ("logistic", len(MODEL))


def test_links_of_a_snapshot_lead_to_its_blobs_alone(tmp_path: Path) -> None:
    snapshot = _cache(tmp_path / "cache")
    (snapshot / "secret").symlink_to(write(tmp_path / "secret"))

    with pytest.raises(UnsafeArtifact, match="secret is a link out of the artifact"):
        fetch(snapshot.as_uri(), tmp_path / "volume")


def test_blobs_that_are_a_link_are_not_followed(tmp_path: Path) -> None:
    snapshot = _cache(tmp_path / "cache")
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnsafeArtifact, match="link out of the artifact"):
        fetch(snapshot.as_uri(), tmp_path / "volume")


def test_data_of_a_mounted_volume_lies_inside_it(tmp_path: Path) -> None:
    root = tmp_path / "source"
    write(root / "model.json")
    (root / "..data").symlink_to(write(tmp_path / "elsewhere/secret/x").parent.parent)
    (root / "secret").symlink_to("..data/secret")

    with pytest.raises(UnsafeArtifact, match="secret is a link out of the artifact"):
        fetch(root.as_uri(), tmp_path / "volume")


@pytest.mark.parametrize("name", ["model.bst", "churn.model", "churn.xgb"])
@pytest.mark.parametrize("written", ["ubj", "json"])
def test_xgboost_files_are_known_under_the_names_of_other_servers(name: str, written: str, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    rows = np.arange(40.0).reshape(20, 2)
    fitted = xgboost.XGBRegressor(n_estimators=2).fit(rows, rows[:, 0])
    fitted.save_model(tmp_path / f"saved.{written}")
    model = write(tmp_path / "source" / name, (tmp_path / f"saved.{written}").read_bytes())

    assert fetch(model.parent.as_uri(), tmp_path / "volume").format == "xgboost"

    assert load(model).predict(rows[:3]).tolist() == fitted.predict(rows[:3]).tolist()


def test_lightgbm_text_under_the_name_model_bst_is_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    rows = np.arange(80.0).reshape(40, 2)
    booster = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(rows, rows[:, 0]), 2)
    (tmp_path / "source").mkdir()
    booster.save_model(tmp_path / "source/model.bst")

    assert fetch((tmp_path / "source").as_uri(), tmp_path / "volume").format == "lightgbm"


def test_the_old_binary_format_of_xgboost_is_refused_with_advice(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    model = write(tmp_path / "model.bst", b"binf" + bytes(200))

    assert detect(tmp_path).format == "xgboost"
    with pytest.raises(LoadFailed, match="save it again"):
        load(model)
