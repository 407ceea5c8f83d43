"""The paths of a model's routes in V1 and OIP v2: /PREFIX/NAME[/versions/VERSION]SUFFIX."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ModelPath", "find_model"]


class ModelPath(NamedTuple):
    """The model that a path names, and the version where it names one."""

    name: str
    version: str | None

    def template(self, prefix: str, suffix: str) -> str:
        """Return the path's form, with `{model}` and `{version}` for what differs."""
        versions = "" if self.version is None else "/versions/{version}"
        return f"{prefix}{{model}}{versions}{suffix}"

    @property
    def names(self) -> dict[str, str]:
        """The names that stand for those in the template's braces."""
        return {"model": self.name} if self.version is None else {"model": self.name, "version": self.version}


def find_model(path: str, prefix: str, suffix: str) -> ModelPath | None:
    """Return the model that a decoded path names; None for a path of another form."""
    if not (path.startswith(prefix) and path.endswith(suffix)):
        return None
    parts = path[len(prefix) : -len(suffix)].split("/")
    if len(parts) == 1 and parts[0]:
        return ModelPath(parts[0], None)
    if len(parts) == 3 and parts[0] and parts[1] == "versions" and parts[2]:
        return ModelPath(parts[0], parts[2])
    return None
