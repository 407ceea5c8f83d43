"""oci:// against the registry `distribution`: artifacts, images, indexes, and the three ways to log in."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.artifacts.registry import credentials_for
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, StartupFailure, UnsafeArtifact
from unit.runtime.storage.registry_support import (
    BASIC,
    HTPASSWD,
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    Pusher,
    TokenServer,
    file_layer,
    tar_layer,
)
from unit.runtime.storage.servers import Cutter, Server
from unit.runtime.support import SUM
from unit.runtime.test_unpack import tar_gz, tar_member

MODEL = json.dumps(SUM).encode()
LARGE = hashlib.sha256(b"layer").digest() * (128 * 1024)  # 4 MiB
Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def registry(start: Start) -> Iterator[Server]:
    """One that asks nobody to log in."""
    with start("oci") as running:
        yield running


@pytest.fixture
def push(registry: Server) -> Pusher:
    return Pusher(registry.url)


@pytest.fixture(autouse=True)
def _no_docker_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("docker")))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_an_artifact_arrive_by_tag_and_by_digest(push: Pusher, registry: Server, tmp_path: Path) -> None:
    digest = push.artifact("models/churn", "4", file_layer("model.json", MODEL), file_layer("a/weights.bin", LARGE))

    report = fetch(f"oci://127.0.0.1:{registry.port}/models/churn:4", tmp_path / "tag")
    fetch(f"oci://localhost:{registry.port}/models/churn@{digest}", tmp_path / "digest")

    assert files_of(tmp_path / "tag" / "artifact") == {"model.json": MODEL, "a/weights.bin": LARGE}
    assert files_of(tmp_path / "digest" / "artifact") == files_of(tmp_path / "tag" / "artifact")
    assert report.digest == fetch((tmp_path / "tag" / "artifact").as_uri(), tmp_path / "same").digest


def test_a_single_file_has_its_own_digest_and_an_archive_is_unpacked(
    push: Pusher, registry: Server, tmp_path: Path
) -> None:
    archive = tar_gz([(tar_member("model.json"), MODEL)])
    push.artifact("single", "1", file_layer("churn.tar.gz", archive))

    report = fetch(f"oci://127.0.0.1:{registry.port}/single:1", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}
    assert report.digest == f"sha256:{hashlib.sha256(archive).hexdigest()}"


@pytest.mark.parametrize(
    "layer",
    [
        tar_layer({"churn/model.json": MODEL}, annotations={"io.deis.oras.content.unpack": "true"}),
        tar_layer({"churn/model.json": MODEL}, "application/vnd.oci.image.layer.v1.tar"),
        tar_layer({"churn/model.json": MODEL}, "application/vnd.kitops.modelkit.model.v1.tar+gzip"),
    ],
)
def test_a_packed_folder_is_unpacked(layer: tuple[str, bytes, dict[str, str]], push: Pusher, tmp_path: Path) -> None:
    push.artifact("folder", "1", layer)

    fetch(f"oci://{push.url.removeprefix('http://')}/folder:1", tmp_path)

    assert files_of(tmp_path / "artifact") == {"churn/model.json": MODEL}


def test_of_an_image_the_folder_models_arrives_layer_over_layer(push: Pusher, registry: Server, tmp_path: Path) -> None:
    base: dict[str, bytes | str] = {
        "etc/passwd": b"root",
        "bin/sh": "busybox",
        "models/model.json": b"old",
        "models/old/a": b"",
        "models/b": b"",
    }
    change = {"./models/model.json": MODEL, "models/.wh.b": b"", "models/old/.wh..wh..opq": b"", "models/old/c": b"c"}
    push.image("car", "1", tar_layer(base), tar_layer(change))

    fetch(f"oci://127.0.0.1:{registry.port}/car:1", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL, "old/c": b"c"}


def test_of_an_image_a_deletion_spares_what_its_own_layer_adds(push: Pusher, registry: Server, tmp_path: Path) -> None:
    base: dict[str, bytes | str] = {"models/old/a": b"", "models/old/deep/b": b"", "models/model.json": b"old"}
    change: dict[str, bytes | str] = {
        "models/old/c": b"c",
        "models/old/.wh..wh..opq": b"",
        "models/model.json": MODEL,
        "models/.wh.model.json": b"",
    }
    push.image("car", "2", tar_layer(base), tar_layer(change))

    fetch(f"oci://127.0.0.1:{registry.port}/car:2", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL, "old/c": b"c"}


def test_of_an_index_the_manifest_for_this_machine_counts(push: Pusher, registry: Server, tmp_path: Path) -> None:
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    mine = push.image("many", "mine", tar_layer({"models/model.json": MODEL}))
    other = push.image("many", "other", tar_layer({"models/model.json": b"other"}))
    entries = [
        {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": machine}}
        for digest, machine in ((other, "riscv64"), (mine, here))
    ]
    push.manifest("many", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})

    fetch(f"oci://127.0.0.1:{registry.port}/many:1", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}


@pytest.fixture(scope="module")
def bad(registry: Server) -> None:
    """Artifacts and images that can't be taken."""
    push = Pusher(registry.url)
    push.image("bad", "image", tar_layer({"etc/passwd": b""}))
    push.image("bad", "image-out", tar_layer({"models/../../evil": b""}))
    push.artifact("bad", "untitled", ("application/octet-stream", MODEL, {}))
    push.artifact("bad", "zstd", ("application/vnd.oci.image.layer.v1.tar+zstd", MODEL, {}))
    push.artifact("bad", "out", file_layer("../evil", MODEL))
    push.artifact("bad", "tar-out", tar_layer({"../evil": b""}))
    push.artifact("bad", "link", tar_layer({"model.json": "/etc/passwd"}))
    push.artifact("bad", "twice", file_layer("m", b"1"), file_layer("m", b"2"))
    push.artifact("bad", "broken", ("application/vnd.oci.image.layer.v1.tar+gzip", b"no tar", {}))


@pytest.mark.parametrize(
    ("place", "error", "advice"),
    [
        ("nothing:1", ArtifactNotFound, "/nothing has no 1"),
        ("bad:9", ArtifactNotFound, "/bad has no 9"),
        (f"bad@sha256:{'0' * 64}", ArtifactNotFound, "check the uri"),
        ("bad:image", ArtifactNotFound, "nothing in /models"),
        ("bad:untitled", LoadFailed, "without a title"),
        ("bad:zstd", LoadFailed, "zstd"),
        ("bad:out", UnsafeArtifact, "leaves the folder"),
        ("bad:tar-out", UnsafeArtifact, "leaves the folder"),
        ("bad:link", UnsafeArtifact, "link or special"),
        ("bad:image-out", UnsafeArtifact, "leaves the folder"),
        ("bad:twice", LoadFailed, "twice"),
        ("bad:broken", LoadFailed, "can't be unpacked"),
        ("bad", LoadFailed, "of the form oci://"),
    ],
)
def test_what_is_missing_or_bad_is_refused_with_a_reason(
    place: str, error: type[StartupFailure], advice: str, bad: None, registry: Server, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        fetch(f"oci://127.0.0.1:{registry.port}/{place}", tmp_path / "volume")

    assert advice in caught.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_too_large_is_refused_before_it_is_fetched_and_a_bomb_at_the_limit(
    push: Pusher, registry: Server, tmp_path: Path
) -> None:
    push.artifact("large", "1", file_layer("model.bin", LARGE))
    push.artifact("large", "bomb", tar_layer({"model.bin": bytes(20_000_000)}))

    for tag in ("1", "bomb"):
        with pytest.raises(LoadFailed) as caught:
            fetch(f"oci://127.0.0.1:{registry.port}/large:{tag}", tmp_path, max_bytes=1_000_000)
        assert "larger than 1000000 bytes" in caught.value.message
        assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_goes_on_and_errors_are_retried(push: Pusher, registry: Server, tmp_path: Path) -> None:
    push.artifact("cut", "1", file_layer("model.json", MODEL), file_layer("weights.bin", LARGE))
    cutter = Cutter(registry.port, errors=2, cuts=[0, 0, 0, 0, 3_000_000])

    with cutter.running() as port:
        fetch(f"oci://127.0.0.1:{port}/cut:1", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL, "weights.bin": LARGE}
    assert re.search(rb"(?i)range: bytes=2\d{6}-", b"".join(cutter.requests))


def _docker_config(host: str, **entry: str) -> str:
    return json.dumps({"auths": {f"https://{host}/v2/": entry}})


@pytest.mark.parametrize("kind", ["basic", "token"])
def test_a_registry_that_asks_for_a_login_gets_it(
    kind: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TokenServer(tmp_path).running() as login:
        (tmp_path / "htpasswd").write_text(HTPASSWD)
        htpasswd = json.dumps({"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}})
        with start("oci", auth=htpasswd if kind == "basic" else login.configuration) as registry:
            whole = f"Bearer {login.token('repository:private/churn:pull,push', known=True)}"
            push = Pusher(registry.url, BASIC if kind == "basic" else whole)
            push.artifact("private/churn", "1", file_layer("model.json", MODEL))
            uri = f"oci://127.0.0.1:{registry.port}/private/churn:1"

            with pytest.raises(AccessDenied) as anonymous:
                fetch(uri, tmp_path / "anonymous")
            monkeypatch.setenv("OCI_USERNAME", USER)
            monkeypatch.setenv("OCI_PASSWORD", "wrong")
            with pytest.raises(AccessDenied) as wrong:
                fetch(uri, tmp_path / "wrong")
            monkeypatch.setenv("OCI_PASSWORD", PASSWORD)
            fetch(uri, tmp_path / "right")
            monkeypatch.delenv("OCI_PASSWORD")
            host = f"127.0.0.1:{registry.port}"
            auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            monkeypatch.setenv("MODELYARD_DOCKER_CONFIG_JSON", _docker_config(host, auth=auth))
            fetch(uri, tmp_path / "config")

    assert "give OCI_USERNAME and OCI_PASSWORD" in anonymous.value.message
    assert "its credentials are not taken" in wrong.value.message
    assert "wrong" not in wrong.value.message
    assert (
        files_of(tmp_path / "right" / "artifact") == files_of(tmp_path / "config" / "artifact") == {"model.json": MODEL}
    )


def test_a_public_repository_is_read_with_an_anonymous_token(start: Start, tmp_path: Path) -> None:
    with TokenServer(tmp_path).running() as login, start("oci", auth=login.configuration) as registry:
        whole = f"Bearer {login.token('repository:public/churn:pull,push', known=True)}"
        Pusher(registry.url, whole).artifact("public/churn", "1", file_layer("model.json", MODEL))

        fetch(f"oci://127.0.0.1:{registry.port}/public/churn:1", tmp_path / "volume")

    assert login.asked == ["repository:public/churn:pull"]
    assert files_of(tmp_path / "volume" / "artifact") == {"model.json": MODEL}


def test_credentials_are_those_of_the_registry_that_is_asked(tmp_path: Path) -> None:
    """One that merely begins or ends alike gets none."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "auths": {
                    "registry.example.com": {"username": "a", "password": "b"},
                    "https://index.docker.io/v1/": {"auth": base64.b64encode(b"c:d:e").decode()},
                }
            }
        )
    )
    environ = {"DOCKER_CONFIG": str(tmp_path)}

    assert credentials_for("registry.example.com", environ) == ("a", "b")
    assert credentials_for("docker.io", environ) == ("c", "d:e")
    assert credentials_for("registry.example.com:5000", environ) is None
    assert credentials_for("example.com", environ) is None
    assert credentials_for("registry.example.com.evil.net", environ) is None
    with pytest.raises(AccessDenied):
        credentials_for("x", {"MODELYARD_DOCKER_CONFIG_JSON": "{"})
