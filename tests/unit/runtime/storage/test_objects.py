"""s3://, gs:// and az:// against versitygw, fake-gcs-server and azurite: what arrives, and what is said if it can't."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import obstore
import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.artifacts.schemes import az, gs, s3
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, StartupFailure, UnsafeArtifact
from unit.runtime.storage.servers import Cutter, Server, post
from unit.runtime.support import SUM
from unit.runtime.test_unpack import tar_gz, tar_member, zip_of

STORAGES = {"s3": s3.STORAGE, "gs": gs.STORAGE, "az": az.STORAGE}
MODEL = json.dumps(SUM).encode()
LARGE = hashlib.sha256(b"seed").digest() * (256 * 1024)  # 8 MiB
MANY = {
    "model.json": MODEL,
    "readme": b"",
    **{f"parts/{i:03}.bin": bytes([i]) * i for i in range(30)},
    "a name/with spaces.txt": b"spaces",
    "données/模型.txt": b"unicode",
    "odd/100%25 #1+2?&=.txt": b"odd",
}


@pytest.fixture(autouse=True)
def environ(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(server.environ, monkeypatch)


def use(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def put(server: Server, files: Mapping[str, bytes]) -> None:
    if server.scheme == "gs":  # fake-gcs-server does not take the requests by which obstore writes
        for key, content in files.items():
            query = urllib.parse.urlencode({"uploadType": "media", "name": key})
            post(f"{server.url}/upload/storage/v1/b/models/o?{query}", content, "application/octet-stream")
        return
    store = STORAGES[server.scheme].open("models", os.environ)
    for key, content in files.items():
        obstore.put(store, key, content)


def uri(server: Server, key: str, bucket: str = "models") -> str:
    return f"{server.scheme}://{bucket}/{urllib.parse.quote(key)}"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_object_arrives(server: Server, tmp_path: Path) -> None:
    put(server, {"one/churn.json": MODEL})

    report = fetch(uri(server, "one/churn.json"), tmp_path)

    assert files_of(tmp_path / "artifact") == {"churn.json": MODEL}
    assert (report.digest, report.bytes) == (f"sha256:{hashlib.sha256(MODEL).hexdigest()}", len(MODEL))


@pytest.mark.parametrize("slash", ["", "/"])
def test_everything_below_a_prefix_arrives_and_has_the_digest_of_the_folder(
    slash: str, server: Server, tmp_path: Path
) -> None:
    put(server, {f"many/{name}": content for name, content in MANY.items()} | {"many-more/other.json": b"{}"})

    report = fetch(uri(server, "many") + slash, tmp_path / "volume")

    assert files_of(tmp_path / "volume" / "artifact") == MANY
    for name, content in MANY.items():
        (tmp_path / "same" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / name).write_bytes(content)
    same = fetch((tmp_path / "same").as_uri(), tmp_path / "other")
    assert (report.digest, report.bytes) == (same.digest, same.bytes)


def test_a_key_in_unicode_is_named_by_the_uri(server: Server, tmp_path: Path) -> None:
    put(server, {"ключ/模型 1.json": MODEL})

    fetch(uri(server, "ключ/模型 1.json"), tmp_path / "quoted")
    fetch(f"{server.scheme}://models/ключ/模型 1.json", tmp_path / "plain")

    assert (
        files_of(tmp_path / "quoted" / "artifact")
        == files_of(tmp_path / "plain" / "artifact")
        == {"模型 1.json": MODEL}
    )


@pytest.mark.parametrize("name", ["m.tar.gz", "m.zip"])
def test_an_archive_is_unpacked(name: str, server: Server, tmp_path: Path) -> None:
    content = zip_of({"model.json": MODEL}) if name == "m.zip" else tar_gz([(tar_member("model.json"), MODEL)])
    put(server, {f"archive/{name}": content})

    fetch(uri(server, f"archive/{name}"), tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}


def test_an_archive_that_leaves_the_folder_is_refused(server: Server, tmp_path: Path) -> None:
    put(server, {"archive/evil.zip": zip_of({"../evil.json": MODEL})})

    with pytest.raises(UnsafeArtifact):
        fetch(uri(server, "archive/evil.zip"), tmp_path / "volume")

    assert list(tmp_path.rglob("evil.json")) == []


def test_a_digest_is_checked(server: Server, tmp_path: Path) -> None:
    put(server, {"digest/model.json": MODEL})
    digest = f"sha256:{hashlib.sha256(MODEL).hexdigest()}"

    assert fetch(uri(server, "digest/model.json"), tmp_path / "a", digest=digest).digest == digest
    with pytest.raises(StartupFailure) as caught:
        fetch(uri(server, "digest/model.json"), tmp_path / "b", digest=f"sha256:{'0' * 64}")
    assert caught.value.reason == "DigestMismatch"


@pytest.mark.parametrize("key", ["nothing", "nothing/here/model.json", "man"])
def test_a_missing_key_or_an_empty_prefix_is_named(key: str, server: Server, tmp_path: Path) -> None:
    put(server, {"many/model.json": MODEL})

    with pytest.raises(ArtifactNotFound) as caught:
        fetch(uri(server, key), tmp_path)

    assert f"{STORAGES[server.scheme].holder} models has neither an object {key!r}" in caught.value.message


@pytest.mark.parametrize("server", ["s3", "az"], indirect=True)  # fake-gcs-server answers 500, unlike Google
def test_a_missing_bucket_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        fetch(uri(server, "churn", bucket="nobody"), tmp_path)

    assert f"{STORAGES[server.scheme].holder} nobody" in caught.value.message


def test_what_is_too_large_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    put(server, {"large/model.bin": LARGE, "large/second.bin": LARGE})

    for key in ("large", "large/model.bin"):
        with pytest.raises(LoadFailed) as caught:
            fetch(uri(server, key), tmp_path, max_bytes=len(LARGE) - 1)
        assert "larger than 8388607 bytes" in caught.value.message
        assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, {"cut/model.json": MODEL, "cut/weights.bin": LARGE})
    cutter = Cutter(server.port, cuts=[5_000_000, 2_000_000])

    with cutter.running() as port:
        use(server.through(port), monkeypatch)
        fetch(uri(server, "cut"), tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL, "weights.bin": LARGE}
    assert cutter.connections >= 3
    ranges = [line for chunk in cutter.requests for line in chunk.lower().split(b"\r\n") if line.startswith(b"range:")]
    assert ranges
    assert all(not line.endswith(b"=0-") for line in ranges)


def test_an_object_that_changes_meanwhile_is_not_mixed_with_the_old_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, {"changed/model.json": MODEL})
    before = obstore.head(STORAGES[server.scheme].open("models", os.environ), "changed/model.json")
    put(server, {"changed/model.json": MODEL + b" "})
    monkeypatch.setattr(obstore, "head", lambda *_: before)

    with pytest.raises(LoadFailed, match="was changed while it was fetched"):
        fetch(uri(server, "changed/model.json"), tmp_path)


def test_a_prefix_that_changes_meanwhile_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, {"grows/model.json": MODEL})
    get = obstore.get

    def uploading(*args: Any, **kwargs: Any) -> Any:
        put(server, {"grows/late.bin": b"late"})
        return get(*args, **kwargs)

    monkeypatch.setattr(obstore, "get", uploading)

    with pytest.raises(LoadFailed, match="was changed while it was fetched"):
        fetch(uri(server, "grows"), tmp_path)


@pytest.mark.parametrize("server", ["gs", "az"], indirect=True)  # the S3 server here keeps objects as files
def test_an_empty_object_can_stand_for_a_folder(server: Server, tmp_path: Path) -> None:
    put(server, {"stub": b"", "stub/model.json": MODEL})

    fetch(uri(server, "stub"), tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}


def test_errors_of_the_server_are_retried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(server, {"flaky/model.json": MODEL})
    cutter = Cutter(server.port, errors=2)

    with cutter.running() as port:
        use(server.through(port), monkeypatch)
        fetch(uri(server, "flaky/model.json"), tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}
    assert cutter.connections >= 3


def test_credentials_are_never_shown(server: Server, tmp_path: Path) -> None:
    put(server, {"shown/model.json": MODEL})

    for key, code in (("shown/model.json", 0), ("shown/nothing", 1)):
        done = run_init(uri(server, key), tmp_path, server.environ)

        seen = done.stdout + done.stderr + (tmp_path / "log").read_text()
        seen += "".join(path.read_text() for path in tmp_path.glob("volume/artifact.json"))
        assert done.returncode == code, done.stderr
        assert all(secret not in seen for secret in server.secrets)


WRONG = {
    "s3": {"AWS_SECRET_ACCESS_KEY": "wrong-but-still-secret"},
    "az": {"AZURE_STORAGE_ACCOUNT_KEY": "d3JvbmctYnV0LXN0aWxsLXNlY3JldA=="},
}


@pytest.mark.parametrize("server", ["s3", "az"], indirect=True)  # fake-gcs-server asks nobody for credentials
def test_wrong_credentials_are_refused_with_what_to_give(server: Server, tmp_path: Path) -> None:
    put(server, {"denied/model.json": MODEL})
    wrong = WRONG[server.scheme]

    done = run_init(uri(server, "denied/model.json"), tmp_path, {**server.environ, **wrong})

    failure = json.loads((tmp_path / "log").read_text())
    assert failure["reason"] == "AccessDenied"
    assert "models" in failure["message"]
    assert next(iter(wrong)) in failure["message"]
    assert all(secret not in done.stderr + failure["message"] for secret in (*wrong.values(), *server.secrets))


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_no_credentials_at_all_says_which_to_give(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")

    with pytest.raises(AccessDenied) as caught:
        fetch(uri(server, "denied/model.json"), tmp_path)

    assert "there are no credentials" in caught.value.message
    assert "AWS_ACCESS_KEY_ID" in caught.value.message


def run_init(uri: str, folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard_runtime.artifacts", uri, "--to", str(folder / "volume")],
        env={**os.environ, **environ, "MODELYARD_TERMINATION_LOG": str(folder / "log")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("server", ["gs"], indirect=True)  # the others keep no keys like these
@pytest.mark.parametrize("name", ["../x.json", "a/../../x.json", "./x.json", "a//x.json", "/x.json"])
def test_keys_that_lead_out_are_refused(name: str, server: Server, tmp_path: Path) -> None:
    prefix = f"escape-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    put(server, {f"{prefix}/sub/{name}": MODEL})

    with pytest.raises(UnsafeArtifact) as caught:
        fetch(uri(server, prefix), tmp_path / "volume")

    assert "bucket models" in caught.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_missing_library_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)

    with pytest.raises(LoadFailed) as caught:
        fetch(uri(server, "x"), tmp_path)

    assert "pip install 'modelyard[storage]'" in caught.value.message
