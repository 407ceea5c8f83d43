"""Artifacts from file:// and pvc://: what arrives, its digest, and everything that is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from modelyard_runtime.artifacts.copy import Budget, copy_tree
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.contract import FetchReport
from modelyard_runtime.errors import (
    AccessDenied,
    ArtifactNotFound,
    DigestMismatch,
    LoadFailed,
    StartupFailure,
    UnknownFormat,
    UnsafeArtifact,
)
from unit.runtime.support import LOGISTIC, write_model

SHELL_DIGEST = r"find -L . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model(tmp_path / "source", LOGISTIC)
    return tmp_path / "source"


def test_a_folder_arrives_with_its_report(source: Path, tmp_path: Path) -> None:
    (source / "notes").mkdir()
    (source / "notes" / "read me.txt").write_text("hello")

    report = fetch(source.as_uri(), tmp_path / "volume")

    expected = subprocess.run(SHELL_DIGEST, shell=True, cwd=source, capture_output=True, text=True, check=True)
    digest = f"sha256:{expected.stdout.split()[0]}"
    size = (source / "model.json").stat().st_size + 5
    assert report == FetchReport(source.as_uri(), digest, "logistic", digest[7:19], size)
    assert json.loads((tmp_path / "volume" / "artifact.json").read_text()) == json.loads(report.to_json())
    assert (tmp_path / "volume" / "artifact" / "notes" / "read me.txt").read_text() == "hello"


def test_files_for_another_server_need_no_format(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "weights.gguf").write_bytes(b"any bytes")

    report = fetch(f"file://{files}", tmp_path / "to", format="any")

    assert (report.format, report.bytes) == ("any", 9)
    assert (tmp_path / "to/artifact/weights.gguf").read_bytes() == b"any bytes"


def test_a_single_file_has_the_digest_of_its_bytes(source: Path, tmp_path: Path) -> None:
    expected = subprocess.run(["sha256sum", source / "model.json"], capture_output=True, text=True, check=True)

    report = fetch((source / "model.json").as_uri(), tmp_path / "volume", version="4")

    assert report.digest == f"sha256:{expected.stdout.split()[0]}"
    assert report.version == "4"
    assert (tmp_path / "volume" / "artifact" / "model.json").is_file()


def test_fetching_again_gives_the_same(source: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    first = fetch(source.as_uri(), volume)
    (volume / "artifact" / "left-over").write_text("of an earlier model")
    (volume / ".incoming-dead").mkdir()

    second = fetch(source.as_uri(), volume)

    assert second == first
    assert sorted(path.name for path in volume.rglob("*")) == ["artifact", "artifact.json", "model.json"]


def test_a_failed_fetch_leaves_the_earlier_artifact(source: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    first = fetch(source.as_uri(), volume)

    with pytest.raises(DigestMismatch):
        fetch(source.as_uri(), volume, digest=f"sha256:{'0' * 64}")

    assert json.loads((volume / "artifact.json").read_text())["digest"] == first.digest
    assert sorted(path.name for path in volume.iterdir()) == ["artifact", "artifact.json"]


def test_the_right_digest_is_taken(source: Path, tmp_path: Path) -> None:
    digest = fetch(source.as_uri(), tmp_path / "a").digest

    report = fetch(source.as_uri(), tmp_path / "b", digest=digest)

    assert report.digest == digest


def test_a_claim_is_read_below_its_root(tmp_path: Path) -> None:
    write_model(tmp_path / "claim" / "models" / "churn", LOGISTIC)

    report = fetch("pvc://models/models/churn", tmp_path / "volume", claim_root=tmp_path / "claim")

    assert (report.uri, report.format) == ("pvc://models/models/churn", "logistic")


def test_links_inside_the_artifact_are_copied(source: Path, tmp_path: Path) -> None:
    (source / "model.json").rename(source / "v1.data")
    (source / "model.json").symlink_to("v1.data")

    fetch(source.as_uri(), tmp_path / "volume")

    copied = tmp_path / "volume" / "artifact" / "model.json"
    assert copied.is_file()
    assert not copied.is_symlink()


def test_a_folder_in_a_folder_is_found(source: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(source, outer / "churn-4")

    report = fetch(outer.as_uri(), tmp_path / "volume")

    assert report.format == "logistic"


@pytest.mark.parametrize(
    ("uri", "error", "advice"),
    [
        ("ftp://bucket/model", LoadFailed, "is not supported; give file://"),
        ("s3://bucket", LoadFailed, "s3://BUCKET/KEY"),
        ("s3:///key", LoadFailed, "s3://BUCKET/KEY"),
        ("gs://bucket/a/../b", LoadFailed, "'..'"),
        ("gs://bucket/a//b", LoadFailed, "an empty part"),
        ("s3://bucket//a", LoadFailed, "an empty part"),
        ("s3://bucket/a/./b", LoadFailed, "'.', '..'"),
        ("S3://bucket/a", LoadFailed, "is not supported"),
        ("https://host/model.json#part", LoadFailed, "without a fragment"),
        ("https://host/a b?signature=secret", LoadFailed, "percent-encoded"),
        ("az://container/a%09b", LoadFailed, "control character"),
        ("s3://key:secret@bucket/model", LoadFailed, "user or password"),
        ("s3://bucket:80/model", LoadFailed, "s3://BUCKET/KEY"),
        ("s3://bucket/model?versionId=3", LoadFailed, "write % ? # as"),
        ("http://host/model.json", LoadFailed, "is not supported"),
        ("model.json", LoadFailed, "is not supported"),
        ("", LoadFailed, "is not supported"),
        ("file:///models/../etc/passwd", LoadFailed, "'..'"),
        ("file:///models/%2e%2e/etc/passwd", LoadFailed, "'..'"),
        ("pvc://claim/../other", LoadFailed, "'..'"),
        ("https://host/a/../b", LoadFailed, "'..'"),
        ("file://relative/path", LoadFailed, "absolute path"),
        ("file:///models/churn?x=1", LoadFailed, "write % ? # as"),
        ("file:///", LoadFailed, "path of a file or folder"),
        ("https://host/a b.json", LoadFailed, "percent-encoded"),
        ("https://host/modèle.json", LoadFailed, "percent-encoded"),
        (f"https://{'x' * 70}/model.json", LoadFailed, "not a proper https uri"),
        ("pvc:///path", LoadFailed, "pvc://CLAIM/PATH"),
        ("https:///path", LoadFailed, "https://HOST/PATH"),
        ("https://user:secret@host/model.json", LoadFailed, "user or password"),
        ("oci://user:secret@host/models/churn:4", LoadFailed, "user or password"),
        ("http://user:secret@host/model.json", LoadFailed, "user or password"),
        ("https://host:65536/model.json", LoadFailed, "https://HOST/PATH"),
        ("https://host:port/model.json", LoadFailed, "https://HOST/PATH"),
        ("https://[::1/model.json", LoadFailed, "https://HOST/PATH"),
        ("file:///models/a%00b", LoadFailed, "control character"),
        ("file:///nothing/here", ArtifactNotFound, "check the uri"),
    ],
)
def test_a_wrong_uri_is_refused(uri: str, error: type[StartupFailure], advice: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        fetch(uri, tmp_path / "volume")

    assert advice in caught.value.message
    assert "secret" not in caught.value.message
    assert not (tmp_path / "volume" / "artifact.json").exists()


def _nothing(source: Path) -> None:
    (source / "model.json").unlink()


def _pickle(source: Path) -> None:
    _nothing(source)
    (source / "model.pkl").write_bytes(pickle.dumps([1]))


def _disguised_pickle(source: Path) -> None:
    _nothing(source)
    (source / "weights").write_bytes(pickle.dumps([1]))


def _link_out(source: Path) -> None:
    (source / "passwd").symlink_to("/etc/passwd")


def _link_to_folder(source: Path) -> None:
    (source / "sub").mkdir()
    (source / "link").symlink_to("sub")


def _broken_link(source: Path) -> None:
    (source / "gone").symlink_to("nowhere")


def _fifo(source: Path) -> None:
    os.mkfifo(source / "fifo")


def _newline_in_a_name(source: Path) -> None:
    (source / "a\nb").write_text("")


def _no_json(source: Path) -> None:
    (source / "model.json").write_text("{")


def _no_type(source: Path) -> None:
    (source / "model.json").write_text('{"weights": [1]}')


def _unhashable_type(source: Path) -> None:
    (source / "model.json").write_text('{"type": ["linear"]}')


def _two_models(source: Path) -> None:
    (source / "model.skops").write_bytes(b"")


def _two_files(source: Path) -> None:
    (source / "model.json").rename(source / "a.json")
    (source / "b.json").write_bytes((source / "a.json").read_bytes())


def _other_files(source: Path) -> None:
    _nothing(source)
    (source / "readme.txt").write_text("hello")


@pytest.mark.parametrize(
    ("spoil", "error", "advice"),
    [
        (_nothing, ArtifactNotFound, "empty folder"),
        (_pickle, UnsafeArtifact, "skops.io.dump"),
        (_disguised_pickle, UnsafeArtifact, "skops.io.dump"),
        (_link_out, UnsafeArtifact, "link out of the artifact"),
        (_link_to_folder, UnsafeArtifact, "link to a folder"),
        (_broken_link, ArtifactNotFound, "check the uri"),
        (_fifo, UnsafeArtifact, "neither a file nor a folder"),
        (_newline_in_a_name, UnsafeArtifact, "rename it"),
        (_no_json, LoadFailed, "not valid JSON"),
        (_no_type, UnknownFormat, '"type": "linear"'),
        (_unhashable_type, UnknownFormat, '"type": "linear"'),
        (_two_models, UnknownFormat, "spec.model.format"),
        (_two_files, UnknownFormat, "name the right one model.json"),
        (_other_files, UnknownFormat, "the artifact holds readme.txt"),
    ],
)
def test_a_bad_artifact_is_refused(
    spoil: Any, error: type[StartupFailure], advice: str, source: Path, tmp_path: Path
) -> None:
    spoil(source)

    with pytest.raises(error) as caught:
        fetch(source.as_uri(), tmp_path / "volume")

    assert advice in caught.value.message
    assert list((tmp_path / "volume").iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [
        ("linear", "correct one"),
        ("sklearn", "needs *.skops"),
        ("tensorflow", "is not supported; it is one of"),
        ("onnx", "needs *.onnx"),
    ],
)
def test_another_format_than_asked_for_is_refused(wanted: str, advice: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat) as caught:
        fetch(source.as_uri(), tmp_path / "volume", format=wanted)

    assert advice in caught.value.message


def test_links_are_followed_within_a_claim(tmp_path: Path) -> None:
    write_model(tmp_path / "claim" / "shared", LOGISTIC)
    (tmp_path / "claim" / "churn").mkdir()
    (tmp_path / "claim" / "churn" / "model.json").symlink_to("../shared/model.json")

    report = fetch("pvc://models/churn", tmp_path / "volume", claim_root=tmp_path / "claim")

    assert report.format == "logistic"
    with pytest.raises(UnsafeArtifact, match="link out of the artifact"):
        fetch((tmp_path / "claim" / "churn").as_uri(), tmp_path / "other")


def test_a_file_that_changes_while_it_is_copied_is_refused(source: Path, tmp_path: Path) -> None:
    size = (source / "model.json").stat().st_size

    class Writing(Budget):
        def take(self, count: int) -> None:
            if (source / "model.json").stat().st_size == size:
                with (source / "model.json").open("ab") as file:
                    file.write(b" ")

    (tmp_path / "target").mkdir()

    with pytest.raises(LoadFailed, match="was changed while it was copied"):
        copy_tree(source, None, tmp_path / "target", Writing.of(10**6))


def test_a_folder_that_becomes_a_link_while_it_is_copied_leads_nowhere(source: Path, tmp_path: Path) -> None:
    write_model(source / "weights", LOGISTIC)
    write_model(tmp_path / "elsewhere", LOGISTIC)

    class Moving(Budget):
        def take(self, count: int) -> None:
            if not (source / "weights").is_symlink():
                (source / "weights").rename(tmp_path / "before")
                (source / "weights").symlink_to(tmp_path / "elsewhere")

    (tmp_path / "target").mkdir()

    with pytest.raises(UnsafeArtifact, match="link out of the artifact"):
        copy_tree(source, None, tmp_path / "target", Moving.of(10**6))


def test_a_claim_is_not_left_by_a_link(tmp_path: Path) -> None:
    write_model(tmp_path / "elsewhere", LOGISTIC)
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "churn").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnsafeArtifact) as caught:
        fetch("pvc://models/churn", tmp_path / "volume", claim_root=tmp_path / "claim")

    assert "link out of" in caught.value.message


def test_an_artifact_over_the_size_limit_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        fetch(source.as_uri(), tmp_path / "volume", max_bytes=10)

    assert "larger than 10 bytes" in caught.value.message


def test_a_volume_that_can_not_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises((AccessDenied, LoadFailed)) as caught:
        fetch(source.as_uri(), tmp_path / "file" / "volume")

    assert str(tmp_path / "file") in caught.value.message


def test_the_init_container_reports_success(source: Path, tmp_path: Path) -> None:
    done = _run_init(source.as_uri(), "--to", tmp_path / "volume", "--version", "7", log=tmp_path / "log")

    report = json.loads((tmp_path / "log").read_text())
    assert done.returncode == 0
    assert (report["uri"], report["version"], report["format"]) == (source.as_uri(), "7", "logistic")
    assert len(done.stderr.splitlines()) == 1


def test_the_init_container_reports_failure(tmp_path: Path) -> None:
    done = _run_init("file:///nothing/here", "--to", tmp_path / "volume", log=tmp_path / "log")

    failure = json.loads((tmp_path / "log").read_text())
    assert done.returncode == 1
    assert failure["reason"] == "ArtifactNotFound"
    assert done.stderr.strip() == f"modelyard: ArtifactNotFound: {failure['message']}"


def _run_init(*arguments: str | Path, log: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard_runtime.artifacts", *map(str, arguments)],
        env={**os.environ, "MODELYARD_TERMINATION_LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
