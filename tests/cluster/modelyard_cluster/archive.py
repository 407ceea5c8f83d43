"""Writes an image of one layer as a `docker-archive` tar, which containerd and buildah import: no builder needed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["layer_of_files", "write_image"]

# `uname -m` says it otherwise than images do.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    archive: Path,
    name: str,
    layer: Path,
    *,
    machine: str,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    path: str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
) -> None:
    """Write an image of one layer.

    Args:
        archive: written beside its place and moved there: what has the name is whole.
        name: such as localhost/modelyard-base:bookworm.
        layer: a tar of the file system.
        machine: the processor, as `uname -m` says it.
        entrypoint: what every container of it runs.
        command: what a container runs, or its entrypoint's arguments, unless it says otherwise.
        path: the environment's PATH.
    """
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Env": [f"PATH={path}"], "Entrypoint": list(entrypoint) or None, "Cmd": list(command) or None},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "modelyard_cluster"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{digest}/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).encode()
    new = archive.with_name(f".{archive.name}.new")
    with tarfile.open(new, "w") as tar:
        _add(tar, "manifest.json", manifest)
        _add(tar, config_name, config)
        tar.add(layer, layer_name)
    new.replace(archive)


def layer_of_files(layer: Path, files: dict[str, Path]) -> None:
    """Write a layer that holds these executable files, by their place in the image."""
    with tarfile.open(layer, "w") as tar:
        for place, source in files.items():
            _add(tar, place.lstrip("/"), source.read_bytes(), mode=0o755)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))
