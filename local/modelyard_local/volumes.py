"""Volumes as folders, and the rewriting of the paths that a container knows them by."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelyard_local.objects import Object

__all__ = ["Claims", "PodVolumes", "VolumeMissing", "rewrite"]

_DATA = "..data"


class VolumeMissing(Exception):
    """A volume's source is not there; `unschedulable` where a scheduler would say so."""

    def __init__(self, message: str, *, unschedulable: bool = False) -> None:
        super().__init__(message)
        self.unschedulable = unschedulable


@dataclass(frozen=True)
class Claims:
    """The folders that stand for PersistentVolumeClaims."""

    default: Path
    """Holds a folder per claim that is not given by name."""

    given: Mapping[str, Path]

    def folder(self, name: str) -> Path:
        """Return the folder of a claim. Raises VolumeMissing."""
        folder = self.given.get(name, self.default / name)
        if not folder.is_dir():
            raise VolumeMissing(
                f'persistentvolumeclaim "{name}" not found: put its files into {folder}, '
                f"or start `modelyard local up --claim {name}=FOLDER`",
                unschedulable=True,
            )
        return folder


class PodVolumes:
    """The volumes of one pod: emptyDir and configMap folders of its own, and claims."""

    def __init__(
        self, root: Path, pod_spec: Object, claims: Claims, config_map: Callable[[str], Object | None]
    ) -> None:
        self._root = root
        self._volumes: list[Object] = pod_spec.get("volumes", [])
        self._claims = claims
        self._config_map = config_map

    def prepare(self) -> None:
        """Make the folders. Raises VolumeMissing."""
        for volume in self._volumes:
            if "persistentVolumeClaim" not in volume:
                (self._root / volume["name"]).mkdir(parents=True, exist_ok=True)
            else:
                self._folder(volume)
        self.refresh()

    def refresh(self) -> None:
        """Bring configMap volumes up to date, each as a whole. Raises VolumeMissing."""
        for volume in self._volumes:
            if "configMap" in volume:
                name = volume["configMap"]["name"]
                config_map = self._config_map(name)
                if config_map is None:
                    raise VolumeMissing(f'configmap "{name}" not found')
                _project(self._root / volume["name"], config_map.get("data", {}))

    def mounts(self, container: Object) -> dict[str, Path]:
        """Return the folder behind each path that a container mounts. Raises VolumeMissing."""
        volumes = {volume["name"]: volume for volume in self._volumes}
        return {
            mount["mountPath"].rstrip("/"): self._folder(volumes[mount["name"]]) / mount.get("subPath", "")
            for mount in container.get("volumeMounts", [])
        }

    def _folder(self, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            return self._claims.folder(volume["persistentVolumeClaim"]["claimName"])
        return self._root / str(volume["name"])


def rewrite(value: str, mounts: Mapping[str, Path]) -> str:
    """Return an argument or variable with a leading mount path replaced by the folder behind it."""
    for path in sorted(mounts, key=len, reverse=True):  # of nested mounts the inner one counts
        if value == path or value.startswith(path + "/"):
            return str(mounts[path]) + value.removeprefix(path)
    return value


def _project(folder: Path, data: Mapping[str, str]) -> None:
    """Write files as a kubelet does: a new folder, and one rename of the link `..data` that swaps all of them."""
    link = folder / _DATA
    before = folder / os.readlink(link) if link.is_symlink() else None
    if before is not None and {file.name: file.read_text() for file in before.iterdir()} == dict(data):
        return
    fresh = folder / f"..{uuid.uuid4().hex[:12]}"
    fresh.mkdir()
    for name, text in data.items():
        (fresh / name).write_text(text)
    for name in data:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")
    staged = folder / f"{_DATA}_tmp"
    staged.unlink(missing_ok=True)
    staged.symlink_to(fresh.name)
    staged.rename(link)
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in data:
            entry.unlink()
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
