"""hf:// against a server that answers as the Hugging Face Hub's public API is recorded to; the hub itself is not asked.

The files of one repository, the routes `/api/models/REPO/revision/REV` and `/REPO/resolve/COMMIT/PATH`, large files
redirected to another host, small ones to another path, `X-Error-Code`, and bearer tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, StartupFailure, UnsafeArtifact
from unit.runtime.storage.servers import Cutter, QuietHandler, http_server
from unit.runtime.support import SUM

COMMIT = "5f3a1c" + "0" * 34
TOKEN = "hf_never_to_be_shown"
MODEL = json.dumps(SUM).encode()
LARGE = hashlib.sha256(b"weights").digest() * (64 * 1024)  # 2 MiB
FILES = {".gitattributes": b"*.bin lfs", "model.json": MODEL, "bin/weights.bin": LARGE, "bin/名 1.txt": b"x"}


@dataclass
class Hub:
    """A hub on one port and its content delivery network on another."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    failures: int = 0
    damage: bool = False
    port: int = 0
    cdn_port: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Host (hub or cdn), path and Authorization of each request."""

    def answer(self, host: str, path: str, headers: Any) -> tuple[int, dict[str, str], bytes]:
        path = unquote(path)
        token = headers.get("Authorization", "")
        self.asked.append((host, path, token))
        if self.failures:
            self.failures -= 1
            return 500, {}, b""
        if host == "cdn":
            return self._content(path.removeprefix("/large/"), headers)
        if self.private and token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if path == "/api/models/acme/churn/revision/refs/pr/1?blobs=true":
            path = "/api/models/acme/churn/revision/main?blobs=true"
        if path == "/api/models/acme/churn/revision/main?blobs=true":
            siblings = [self._entry(name) for name in self.files]
            return 200, {}, json.dumps({"id": "acme/churn", "sha": COMMIT, "siblings": siblings}).encode()
        if path.startswith("/api/models/acme/churn/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if found := re.fullmatch(rf"/acme/churn/resolve/{COMMIT}/(.+)", path):
            if found.group(1).endswith(".bin"):
                return 302, {"Location": f"http://localhost:{self.cdn_port}/large/{found.group(1)}"}, b""
            return 307, {"Location": f"/api/resolve-cache/{path.rpartition('resolve/')[2]}".replace(" ", "%20")}, b""
        if path.startswith("/api/resolve-cache/"):
            return self._content(path.removeprefix(f"/api/resolve-cache/{COMMIT}/"), headers)
        return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 133}
        entry = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        return entry | ({"lfs": lfs} if name.endswith(".bin") else {})

    def _content(self, name: str, headers: Any) -> tuple[int, dict[str, str], bytes]:
        name = next(file for file in self.files if file.encode() == name.encode())
        content = self.files[name]
        if self.damage:
            content = content[:-1] + b"?"
        begin = int((headers.get("Range") or "bytes=0-")[6:-1])
        extra = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        return 206 if begin else 200, extra, content[begin:]

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        with self._listen("hub") as self.port, self._listen("cdn") as self.cdn_port:
            yield self

    @contextlib.contextmanager
    def _listen(self, host: str) -> Iterator[int]:
        hub = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                status, headers, body = hub.answer(host, self.path, self.headers)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value.encode().decode("latin-1"))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        with http_server(Handler) as port:
            yield port


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(dict(FILES)).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.port}")
        yield running


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("revision", ["main", "refs%2Fpr%2F1"])
def test_a_repository_arrives_at_one_commit(revision: str, hub: Hub, tmp_path: Path) -> None:
    report = fetch(f"hf://acme/churn@{revision}", tmp_path)

    assert files_of(tmp_path / "artifact") == FILES
    assert report.bytes == sum(map(len, FILES.values()))
    assert all(COMMIT in path or "/large/" in path for _, path, _ in hub.asked[1:])


def test_a_file_or_a_folder_of_a_repository_arrives(hub: Hub, tmp_path: Path) -> None:
    hub.files["sub/model.json"] = MODEL
    hub.files["submarine.txt"] = b""

    single = fetch("hf://acme/churn@main/model.json", tmp_path / "file")
    fetch("hf://acme/churn@main/sub/", tmp_path / "folder")

    assert single.digest == f"sha256:{hashlib.sha256(MODEL).hexdigest()}"
    assert (
        files_of(tmp_path / "file" / "artifact") == files_of(tmp_path / "folder" / "artifact") == {"model.json": MODEL}
    )


def test_a_token_reaches_the_hub_and_no_other_host(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    fetch("hf://acme/churn@main", tmp_path)

    assert {token for host, _, token in hub.asked if host == "hub"} == {f"Bearer {TOKEN}"}
    assert {token for host, _, token in hub.asked if host == "cdn"} == {""}
    assert TOKEN not in (tmp_path / "artifact.json").read_text()


def test_a_broken_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    cutter = Cutter(hub.cdn_port, cuts=[1_500_000])

    with cutter.running() as hub.cdn_port:
        fetch("hf://acme/churn@main", tmp_path)

    assert files_of(tmp_path / "artifact") == FILES
    assert re.search(rb"(?i)range: bytes=1[34]\d{5}-", b"".join(cutter.requests))


def test_errors_of_the_hub_are_retried(hub: Hub, tmp_path: Path) -> None:
    hub.failures = 2

    fetch("hf://acme/churn@main/model.json", tmp_path)

    assert files_of(tmp_path / "artifact") == {"model.json": MODEL}


@pytest.mark.parametrize(
    ("uri", "error", "advice"),
    [
        ("hf://acme/churn@nothing", ArtifactNotFound, "no revision 'nothing'"),
        ("hf://acme/nothing@main", ArtifactNotFound, "give HF_TOKEN"),
        ("hf://acme/churn@main/nothing", ArtifactNotFound, "holds nothing at 'nothing'"),
        ("hf://acme/churn", LoadFailed, "of the form hf://ORG/REPO@REVISION"),
        ("hf://churn@main", LoadFailed, "of the form hf://"),
        ("hf://acme/churn@main/../x", LoadFailed, "'..'"),
        ("hf://acme/churn@..%2Fx", LoadFailed, "'.', '..'"),
        ("hf://acme/..@main", LoadFailed, "'.', '..'"),
    ],
)
def test_what_is_not_there_is_named(
    uri: str, error: type[StartupFailure], advice: str, hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        fetch(uri, tmp_path)

    assert advice in caught.value.message


def test_a_gated_repository_says_what_to_do(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    with pytest.raises(AccessDenied) as caught:
        fetch("hf://acme/churn@main", tmp_path)

    assert "accept its terms" in caught.value.message
    assert TOKEN not in caught.value.message


def test_a_damaged_file_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True

    with pytest.raises(LoadFailed) as caught:
        fetch("hf://acme/churn@main/bin/weights.bin", tmp_path)

    assert "arrives damaged" in caught.value.message


def test_what_is_too_large_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        fetch("hf://acme/churn@main", tmp_path, max_bytes=1_000_000)

    assert "larger than 1000000 bytes" in caught.value.message
    assert len(hub.asked) == 1


@pytest.mark.parametrize("name", ["../evil.json", "a/../../evil.json", "/evil.json", "a\\..\\evil.json", "a\nb"])
def test_paths_that_lead_out_are_refused(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.files[name] = b"{}"

    with pytest.raises(UnsafeArtifact):
        fetch("hf://acme/churn@main", tmp_path / "volume")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_another_server_than_a_hub_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "answer", lambda *_: (200, {}, b"<html>"))

    with pytest.raises(LoadFailed) as caught:
        fetch("hf://acme/churn@main", tmp_path)

    assert "check HF_ENDPOINT" in caught.value.message
