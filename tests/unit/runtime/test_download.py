"""Artifacts over https, from a real server with a certificate of its own authority."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from modelyard_runtime.artifacts.copy import Budget
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.artifacts.schemes import https
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import parse_uri
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, StartupFailure
from unit.runtime.support import SUM
from unit.runtime.test_unpack import tar_gz, tar_member

MODEL = json.dumps(SUM).encode()


@dataclass
class Site:
    """An https server that answers each request with the next of `answers`: (status, headers, body)."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request."""

    def download(self, folder: Path, path: str = "/model.json", limit: int = 10**6) -> int:
        transfer = Transfer(Budget.of(limit), sleep=self.pauses.append)
        return https.fetch(parse_uri(self.url + path), folder, transfer).bytes


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(dict(self.headers.items()))
            status, headers, body = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    server = _Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"https://localhost:{server.server_address[1]}"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that refuses our certificate is what a test is about."""


def test_a_file_arrives(site: Site, tmp_path: Path) -> None:
    site.answers = [(200, {}, MODEL)]

    report = fetch(f"{site.url}/models/churn.json?token=x", tmp_path / "volume")

    assert (report.format, report.bytes) == ("linear", len(MODEL))
    assert (tmp_path / "volume" / "artifact" / "churn.json").read_bytes() == MODEL


def test_an_archive_is_unpacked(site: Site, tmp_path: Path) -> None:
    site.answers = [(200, {}, tar_gz([(tar_member("model.json"), MODEL)]))]

    fetch(f"{site.url}/churn.tar.gz", tmp_path / "volume")

    assert (tmp_path / "volume" / "artifact" / "model.json").read_bytes() == MODEL


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, b""),
        (503, {}, b"busy"),
        (429, {}, b""),
        (200, {"Content-Length": "1000"}, MODEL),  # closes early
    ],
)
def test_a_passing_trouble_is_retried(first: tuple[int, dict[str, str], bytes], site: Site, tmp_path: Path) -> None:
    site.answers = [first, first, (200, {}, MODEL)]

    size = site.download(tmp_path)

    assert size == len(MODEL)
    assert site.pauses == [0.5, 1.0]


HALF = len(MODEL) // 2


@pytest.mark.parametrize(
    ("validator", "asked"),
    [
        ({"ETag": '"v1"'}, {"Range": f"bytes={HALF}-", "If-Range": '"v1"'}),
        (
            {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"},
            {"Range": f"bytes={HALF}-", "If-Range": "Mon, 02 Nov 2026 10:00:00 GMT"},
        ),
        ({"ETag": 'W/"v1"'}, {}),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_download_goes_on_where_it_broke_as_long_as_the_file_is_the_same(
    takes_ranges: bool, validator: dict[str, str], asked: dict[str, str], site: Site, tmp_path: Path
) -> None:
    rest = (206, {"Content-Range": f"bytes {HALF}-{len(MODEL) - 1}/{len(MODEL)}", **validator}, MODEL[HALF:])
    broken = (200, {"Content-Length": str(len(MODEL)), **validator}, MODEL[:HALF])
    site.answers = [broken, rest if takes_ranges and asked else (200, validator, MODEL)]

    size = site.download(tmp_path)

    assert size == len(MODEL)
    assert (tmp_path / "model.json").read_bytes() == MODEL
    assert {name: value for name, value in site.asked[1].items() if name in ("Range", "If-Range")} == asked


@pytest.mark.parametrize(
    "odd",
    [
        (206, {"Content-Range": f"bytes 3-{len(MODEL) - 1}/{len(MODEL)}"}, MODEL[3:]),
        (416, {}, b""),
    ],
)
def test_another_part_than_asked_for_begins_anew(odd: Any, site: Site, tmp_path: Path) -> None:
    etag = {"ETag": '"v1"'}
    site.answers = [(200, {"Content-Length": "1000", **etag}, MODEL[:HALF]), odd, (200, etag, MODEL)]

    site.download(tmp_path)

    assert (tmp_path / "model.json").read_bytes() == MODEL


def test_the_rest_of_another_version_is_not_appended(site: Site, tmp_path: Path) -> None:
    """Some caches ignore If-Range."""
    begun = (200, {"Content-Length": str(len(MODEL)), "ETag": '"v1"'}, b"x" * HALF)
    rest = (206, {"Content-Range": f"bytes {HALF}-{len(MODEL) - 1}/{len(MODEL)}", "ETag": '"v2"'}, MODEL[HALF:])
    site.answers = [begun, rest, (200, {"ETag": '"v2"'}, MODEL)]

    site.download(tmp_path)

    assert (tmp_path / "model.json").read_bytes() == MODEL


def test_a_signature_in_the_query_is_not_shown(site: Site, tmp_path: Path) -> None:
    site.answers = [(403, {}, b"")]

    with pytest.raises(AccessDenied) as caught:
        site.download(tmp_path, "/model.json?X-Amz-Signature=secret")

    assert "secret" not in caught.value.message


def test_redirects_to_https_are_followed(site: Site, tmp_path: Path) -> None:
    site.answers = [(302, {"Location": f"{site.url}/other"}, b""), (200, {}, MODEL)]

    size = site.download(tmp_path)

    assert size == len(MODEL)


@pytest.mark.parametrize(
    ("answer", "error", "advice", "attempts"),
    [
        ((404, {}, b""), ArtifactNotFound, "check the uri", 1),
        ((403, {}, b""), AccessDenied, "not allowed", 1),
        ((400, {}, b""), LoadFailed, "answers 400", 1),
        ((503, {}, b""), LoadFailed, "answers 503, 5 times", 5),
        ((302, {"Location": "http://localhost/model.json"}, b""), LoadFailed, "another scheme", 1),
        ((302, {"Location": "file:///etc/passwd"}, b""), LoadFailed, "answers 302", 1),
        ((200, {}, bytes(2000)), LoadFailed, "larger than 1000 bytes", 1),
    ],
)
def test_a_lasting_trouble_ends_with_a_reason(
    answer: Any, error: type[StartupFailure], advice: str, attempts: int, site: Site, tmp_path: Path
) -> None:
    site.answers = [answer]

    with pytest.raises(error) as caught:
        site.download(tmp_path, limit=1000)

    assert advice in caught.value.message
    assert len(site.pauses) == attempts - 1


def test_an_unknown_authority_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    site.answers = [(200, {}, MODEL)]

    with pytest.raises(AccessDenied) as caught:
        site.download(tmp_path)

    assert "SSL_CERT_FILE" in caught.value.message


def test_a_server_that_is_not_there_is_retried_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    pauses: list[float] = []

    with pytest.raises(LoadFailed) as caught:
        https.fetch(parse_uri("https://localhost:1/m.json"), tmp_path, Transfer(Budget.of(10), sleep=pauses.append))

    assert "no connection" in caught.value.message
    assert pauses == [0.5, 1.0, 2.0, 4.0]
