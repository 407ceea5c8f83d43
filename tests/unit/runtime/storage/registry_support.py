"""Pushing to a registry as `oras` and image builders do, and the token server that it can be told to trust."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from unit.runtime.storage.servers import QuietHandler, http_server

USER, PASSWORD = "reader", "a password, never to be shown"
HTPASSWD = f"{USER}:$2b$04$t1jLXCUcmUy0Fuf4rYfZLu1qOszz28SwtzepkKRAZyb3RrmT.iy/G\n"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
Layer = tuple[str, bytes, dict[str, str]]
"""Media type, content, annotations."""


def file_layer(title: str, content: bytes) -> Layer:
    return "application/octet-stream", content, {TITLE: title}


def tar_layer(
    files: Mapping[str, bytes | str], media_type: str = GZIP, annotations: dict[str, str] | None = None
) -> Layer:
    """A layer of files; text stands for a link to that place."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz" if "gzip" in media_type else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return media_type, packed.getvalue(), annotations or {}


@dataclass
class Pusher:
    """Pushes to one registry."""

    url: str
    authorization: str = ""

    def artifact(self, repository: str, tag: str, *layers: Layer) -> str:
        """Push what `oras push` would; return the manifest's digest."""
        return self._manifest(repository, tag, "application/vnd.oci.empty.v1+json", b"{}", layers)

    def image(self, repository: str, tag: str, *layers: Layer) -> str:
        """Push an image; return the manifest's digest."""
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        kind = "application/vnd.oci.image.config.v1+json"
        return self._manifest(repository, tag, kind, json.dumps(config).encode(), layers)

    def manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        headers = {"Content-Type": manifest["mediaType"]}
        self._send("PUT", f"{self.url}/v2/{repository}/manifests/{tag}", body, headers)
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def _manifest(self, repository: str, tag: str, kind: str, config: bytes, layers: tuple[Layer, ...]) -> str:
        entries = [
            {**self._blob(repository, content), "mediaType": media_type, "annotations": annotations}
            for media_type, content, annotations in layers
        ]
        described = {**self._blob(repository, config), "mediaType": kind}
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": entries}
        return self.manifest(repository, tag, body)

    def _blob(self, repository: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self._send("POST", f"{self.url}/v2/{repository}/blobs/uploads/", b"", {})
        self._send("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", content, {})
        return {"digest": digest, "size": len(content)}

    def _send(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> str:
        full = {"Content-Type": "application/octet-stream", **headers}
        if self.authorization:
            full["Authorization"] = self.authorization
        request = urllib.request.Request(url, data=body, method=method, headers=full)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return str(response.headers.get("Location", ""))


@dataclass
class TokenServer:
    """A login that signs tokens: anybody may pull from `public/`, the user may do all."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """The scopes that were asked for."""

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - timedelta(hours=1))
        self._certificate = builder.not_valid_after(now + timedelta(hours=1)).sign(self._key, hashes.SHA256())
        (self.folder / "token.pem").write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def configuration(self) -> str:
        """What the registry's configuration says of it."""
        realm = f"http://127.0.0.1:{self.port}/token"
        names = {"realm": realm, "service": "test-registry", "issuer": "test-login"}
        return json.dumps({"token": {**names, "rootcertbundle": str(self.folder / "token.pem")}})

    def token(self, scope: str, *, known: bool) -> str:
        kind, name, actions = scope.split(":")
        allowed = actions.split(",") if known else ["pull"] if name.startswith("public/") else []
        now = int(time.time())
        claims = {
            **{"iss": "test-login", "sub": USER if known else "", "aud": "test-registry", "jti": "1"},
            **{"iat": now, "nbf": now - 10, "exp": now + 300},
            "access": [{"type": kind, "name": name, "actions": allowed}],
        }
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        text = ".".join(_unpadded(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_unpadded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    @contextlib.contextmanager
    def running(self) -> Iterator[TokenServer]:
        login = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                scope = parse_qs(urlsplit(self.path).query)["scope"][0]
                given = self.headers.get("Authorization")
                login.asked.append(scope)
                body = json.dumps({"token": login.token(scope, known=given == BASIC)}).encode()
                self.send_response(401 if given not in (None, BASIC) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        with http_server(Handler) as self.port:
            yield self


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
