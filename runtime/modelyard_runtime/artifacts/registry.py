"""A container registry over plain HTTPS: the read half of the OCI distribution specification, and its ways to log in.

Without credentials first; at a 401 as the registry asks for it: `Basic`, or `Bearer` with a token from its realm, which
gets the credentials where there are some. Registries on this machine (localhost, 127.0.0.0/8) are spoken to over http,
as container runtimes do.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from modelyard_runtime.artifacts.transfer import Incoming, Transfer
from modelyard_runtime.artifacts.web import Answer, Web
from modelyard_runtime.contract import Env
from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed

__all__ = ["Registry", "credentials_for"]

_ADVICE = (
    "give OCI_USERNAME and OCI_PASSWORD, or a .dockerconfigjson (kubectl create secret docker-registry), in the Secret "
    "of spec.model.credentials"
)
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_API = "registry-1.docker.io"


class Registry:
    """One repository of a registry. Its methods raise ArtifactNotFound, AccessDenied and LoadFailed."""

    def __init__(self, host: str, repository: str, transfer: Transfer) -> None:
        self._name = f"{host}/{repository}"
        self._repository = repository
        self._web = Web(transfer)
        self._plain = _is_here(host)
        self._base = f"{'http' if self._plain else 'https'}://{_DOCKER_HUB_API if host in _DOCKER_HUB else host}"
        self._credentials = credentials_for(host, transfer.environ)
        self._authorization = ""

    def manifest(self, reference: str, accept: str) -> tuple[dict[str, Any], str]:
        """Return the manifest or index of a tag or digest, checked against the digest, and its own digest."""
        url = f"{self._base}/v2/{self._repository}/manifests/{reference}"
        answer = self._web.read(url, {"Accept": accept}, authorization=self._authorization)
        if answer.status == 401:
            self._log_in(answer)
            answer = self._web.read(url, {"Accept": accept}, authorization=self._authorization)
        if answer.status != 200:
            self._refuse(answer.status, reference)
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise LoadFailed(f"{self._name}@{reference} arrives damaged: its digest is {digest}; check the registry")
        try:
            manifest = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            manifest = None
        if not isinstance(manifest, dict):
            raise LoadFailed(f"{self._name} answers with no manifest; check the uri")
        return manifest, digest

    def blob(self, digest: str, incoming: Incoming) -> None:
        """Stream a blob into `incoming` and check its digest."""
        url = f"{self._base}/v2/{self._repository}/blobs/{digest}"
        for last in (False, True):
            answer = self._web.download(url, incoming, authorization=self._authorization, immutable=True)
            if answer.status != 401 or last:
                break
            self._log_in(answer)  # tokens end after minutes
        if answer.status not in (200, 206):
            self._refuse(answer.status, digest)
        if f"sha256:{incoming.sha256}" != digest:
            raise LoadFailed(f"the blob {digest} of {self._name} arrives damaged; try again, then check the registry")

    def _refuse(self, status: int, reference: str) -> None:
        if status in (404, 410):
            raise ArtifactNotFound(f"{self._name} has no {reference}; check the uri and that it was pushed")
        if status in (401, 403):
            raise self._denied(str(status))
        raise LoadFailed(f"{self._name} answers {status} for {reference}; check the uri")

    def _denied(self, why: str) -> AccessDenied:
        refused = f"its credentials are not taken: correct them, or {_ADVICE}" if self._credentials else _ADVICE
        return AccessDenied(f"reading {self._name} is not allowed ({why}); {refused}")

    def _log_in(self, answer: Answer) -> None:
        """Do as WWW-Authenticate says."""
        for challenge in answer.headers.get_all("WWW-Authenticate", []):
            kind, _, rest = challenge.partition(" ")
            if kind.lower() == "basic" and self._credentials:
                self._authorization = _basic(self._credentials)
                return
            if kind.lower() == "bearer":
                told: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', rest))
                self._authorization = f"Bearer {self._token(told)}"
                return
        raise self._denied("it asks for a login")

    def _token(self, challenge: Mapping[str, str]) -> str:
        """Return a token from the registry's realm (the distribution specification's token authentication)."""
        realm = challenge.get("realm", "")
        # The credentials go there: never in the clear over a network.
        if not (realm.startswith("https://") or (self._plain and _is_here(urlsplit(realm).netloc))):
            raise LoadFailed(f"{self._name} asks to log in at {realm!r}, which is no https address; check the registry")
        asked = {"scope": challenge.get("scope") or f"repository:{self._repository}:pull"}
        if "service" in challenge:
            asked["service"] = challenge["service"]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}"
        answer = self._web.read(url, authorization=_basic(self._credentials) if self._credentials else "")
        if answer.status in (400, 401, 403):
            raise self._denied(f"its login answers {answer.status}")
        try:
            told = orjson.loads(answer.body)
            token = told.get("token") or told["access_token"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LoadFailed(f"the login of {self._name} answers {answer.status} without a token; try again") from None
        return str(token)


def credentials_for(host: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the user and password for a registry.

    OCI_USERNAME and OCI_PASSWORD count first, then a Docker configuration: the Secret's .dockerconfigjson, or
    `config.json` in DOCKER_CONFIG or ~/.docker. Raises AccessDenied for one that can't be read.
    """
    if environ.get("OCI_USERNAME") and environ.get("OCI_PASSWORD"):
        return environ["OCI_USERNAME"].strip(), environ["OCI_PASSWORD"].strip()
    text = environ.get(Env.DOCKER_CONFIG_JSON, "")
    if not text:
        folder = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME") or "/") / ".docker")
        try:
            text = (Path(folder) / "config.json").read_text()
        except (OSError, ValueError):
            return None
    try:
        entries = orjson.loads(text).get("auths") or {}
        for name, entry in entries.items():
            if _same_registry(name, host):
                return _entry(entry)
    except (ValueError, AttributeError, TypeError, KeyError):
        raise AccessDenied(
            f"the Docker configuration for {host} can't be read; make it anew: kubectl create secret docker-registry"
        ) from None
    return None


def _entry(entry: Mapping[str, str]) -> tuple[str, str] | None:
    if entry.get("username") and entry.get("password"):
        return entry["username"], entry["password"]
    user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    return (user, password) if user else None


def _same_registry(name: str, host: str) -> bool:
    """Whether a key of `auths`, which may be a URL, stands for a registry."""
    there = re.sub(r"^https?://", "", name).partition("/")[0]
    return there == host or (there in _DOCKER_HUB and host in _DOCKER_HUB)


def _basic(credentials: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()


def _is_here(host: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
