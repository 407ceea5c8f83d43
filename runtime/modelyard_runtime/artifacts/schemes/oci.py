"""oci:// -- a model in a container registry: an OCI artifact whose layers are its files, or an image with a /models.

Artifacts, as `oras push` makes them: a layer with a title is a file of that name, a tar layer is unpacked. Images, as
in KServe's model cars: what lies in /models, later layers over earlier ones, and nothing else of the image.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.artifacts.copy import Budget, Copied
from modelyard_runtime.artifacts.paths import safe_path
from modelyard_runtime.artifacts.registry import Registry
from modelyard_runtime.artifacts.transfer import Incoming, Transfer
from modelyard_runtime.artifacts.unpack import unpack_layer
from modelyard_runtime.artifacts.uri import ArtifactURI
from modelyard_runtime.errors import ArtifactNotFound, LoadFailed

__all__ = ["fetch"]

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join((*_MANIFESTS, *_INDEXES))
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_FILE_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_UNPACKED = "io.deis.oras.content.unpack"  # what oras says of a folder that it packed
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_CHUNK = 1024 * 1024
_IMAGE_FOLDER = "models"


@dataclass(frozen=True)
class _Layer:
    digest: str
    size: int
    media_type: str
    title: str
    """The file's name; empty for a layer that is unpacked."""

    @property
    def is_tar(self) -> bool:
        return re.search(r"[.+](tar|gzip|tgz)\b", self.media_type) is not None


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Fetch the artifact or image at `uri` into the folder `target`; every manifest and blob is checked by its digest.

    Raises ArtifactNotFound, AccessDenied, UnsafeArtifact for paths and links that lead out, LoadFailed over the budget
    or for layers that can't be read.
    """
    registry = Registry(uri.host, str(uri.path), transfer)
    manifest = _manifest(registry, uri)
    image = manifest.get("config", {}).get("mediaType") in _IMAGE_CONFIGS
    layers = [_layer(entry, uri, image=image) for entry in manifest.get("layers", [])]
    total = sum(layer.size for layer in layers)
    if total > transfer.budget.left:
        transfer.budget.take(total)
    unpacked = Budget.of(transfer.budget.limit)
    for layer in layers:
        _receive(
            registry, layer, uri, target, transfer=transfer, unpacked=unpacked, below=_IMAGE_FOLDER if image else ""
        )
    files = {path.relative_to(target).as_posix(): path for path in sorted(target.rglob("*")) if path.is_file()}
    if not files:
        where = (
            f"has nothing in /{_IMAGE_FOLDER}: put the model there, or push its files with oras"
            if image
            else "is empty"
        )
        raise ArtifactNotFound(f"{uri.text} {where}")
    single = len(files) == 1 and len(layers) == 1 and bool(layers[0].title)
    size = sum(path.stat().st_size for path in files.values())
    return Copied({name: _sha256(path) for name, path in files.items()}, size, single)


def _manifest(registry: Registry, uri: ArtifactURI) -> dict[str, Any]:
    """Return the manifest; of an index, the one for this machine, or the only one."""
    manifest, _ = registry.manifest(uri.revision, _ACCEPT)
    if "manifests" not in manifest:
        return manifest
    here = _MACHINES.get(platform.machine(), platform.machine())
    entries = [entry for entry in manifest["manifests"] if entry.get("mediaType") in _MANIFESTS]
    platforms = [entry.get("platform") or {} for entry in entries]
    fitting = [
        entry
        for entry, told in zip(entries, platforms, strict=True)
        if told.get("os") == "linux" and told.get("architecture") == here
    ] or [entry for entry, told in zip(entries, platforms, strict=True) if told.get("os") != "unknown"]
    if len(fitting) != 1 or not _DIGEST.fullmatch(str(fitting[0].get("digest"))):
        raise LoadFailed(
            f"{uri.text} is an index of {len(fitting)} manifests that fit; name one by its digest: @sha256:…"
        )
    found, _ = registry.manifest(fitting[0]["digest"], ", ".join(_MANIFESTS))
    return found


def _layer(entry: Mapping[str, Any], uri: ArtifactURI, *, image: bool) -> _Layer:
    digest, size, media_type = entry.get("digest"), entry.get("size"), str(entry.get("mediaType", ""))
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise LoadFailed(f"{uri.text} has a layer without a sha256 digest and a size; push it again")
    if "zstd" in media_type and (image or ".tar" in media_type):
        raise LoadFailed(f"{uri.text} has a layer packed with zstd, which is not supported; push it with gzip")
    annotations = entry.get("annotations") or {}
    title = next((str(annotations[name]) for name in _FILE_NAMES if annotations.get(name)), "")
    layer = _Layer(digest, size, media_type, title)
    packed = annotations.get(_UNPACKED) == "true" or "org.opencontainers.image.title" not in annotations
    if image or (layer.is_tar and packed):
        return _Layer(digest, size, media_type, "")
    if not title:
        raise LoadFailed(f"{uri.text} has a layer ({media_type}) without a title, so without a name; push it with oras")
    return layer


def _receive(
    registry: Registry,
    layer: _Layer,
    uri: ArtifactURI,
    target: Path,
    *,
    transfer: Transfer,
    unpacked: Budget,
    below: str,
) -> None:
    path = target / safe_path(uri.text, layer.title) if layer.title else target.parent / "layer"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Incoming(path, transfer, f"{uri.text} {layer.title or layer.digest[:19]}", layer.size) as incoming:
            registry.blob(layer.digest, incoming)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise LoadFailed(f"{uri.text} holds {layer.title!r} twice; push it again") from None
    if not layer.title:
        unpack_layer(path, target, unpacked, name=uri.text, below=below)
        path.unlink()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
