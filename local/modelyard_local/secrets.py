"""Secrets as folders, a file per key, and what a container's environment takes from them.

Whoever runs `modelyard local` may read them anyway: they are kept out of the store, of logs and of other containers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelyard_local.objects import Object
from modelyard_local.volumes import VolumeMissing

__all__ = ["Secrets", "environment_of"]


@dataclass(frozen=True)
class Secrets:
    """The folders that stand for Secrets."""

    root: Path
    """Holds a folder per Secret."""

    def read(self, name: str) -> dict[str, str]:
        """Return a Secret's keys and values; one newline at an end, which editors add, is no part of a value.

        Raises VolumeMissing.
        """
        folder = self.root / name
        try:
            return {file.name: file.read_text().removesuffix("\n") for file in folder.iterdir() if file.is_file()}
        except FileNotFoundError:
            raise VolumeMissing(
                f'secret "{name}" not found: make the folder {folder} with a file for each key, '
                "such as AWS_ACCESS_KEY_ID",
                unschedulable=True,
            ) from None
        except (OSError, ValueError) as error:
            raise VolumeMissing(f'secret "{name}" can\'t be read from {folder}: {error}', unschedulable=True) from None


def environment_of(container: Object, secrets: Secrets, rewritten: Callable[[str], str]) -> dict[str, str]:
    """Return a container's variables: `envFrom` first, then `env`, as a kubelet does. Raises VolumeMissing.

    `rewritten` turns the paths that a container knows into those of this machine; values of Secrets stay as they are.
    """
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            environment |= secrets.read(source["secretRef"]["name"])
    for entry in container.get("env", []):
        wanted = entry.get("valueFrom", {}).get("secretKeyRef")
        if wanted is None:
            environment[entry["name"]] = rewritten(entry.get("value", ""))
            continue
        values = secrets.read(wanted["name"])
        if wanted["key"] in values:
            environment[entry["name"]] = values[wanted["key"]]
        elif not wanted.get("optional"):
            raise VolumeMissing(f'secret "{wanted["name"]}" has no key {wanted["key"]}', unschedulable=True)
    return environment
