"""Format: what the one file of a format declares, and from which detection, loading, the CRD and the docs are made.

A module of this folder that has a `FORMAT` is a format; `scripts/generate` writes the list of their names into
`contract.FORMATS`, for the operator.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import UnknownFormat
from modelyard_runtime.formats.base import Model

__all__ = ["ArtifactFile", "Claim", "Format", "format_named"]

_HEAD_BYTES = 64


class Claim(IntEnum):
    """How strongly a format claims a file. Of an artifact's files, those with the strongest claim decide."""

    NONE = 0
    CODE = 1
    """The file holds code: it counts where nothing else is a model."""
    ANY_NAME = 2
    """A model under any name of a suffix that other files have, too."""
    FILE = 3
    FOLDER = 4
    """The file says what the whole folder is, whatever lies beside it."""


@dataclass(frozen=True)
class ArtifactFile:
    """A file of an artifact, for formats to recognize; each part of it is read once, and only if asked for."""

    path: Path

    @property
    def name(self) -> str:
        """The name, without its folder."""
        return self.path.name

    @property
    def suffix(self) -> str:
        """The name's end from its last dot, in lower case."""
        return self.path.suffix.lower()

    @cached_property
    def head(self) -> bytes:
        """The first 64 bytes."""
        with self.path.open("rb") as file:
            return file.read(_HEAD_BYTES)

    @cached_property
    def _parsed(self) -> tuple[Any, str]:
        try:
            return orjson.loads(self.path.read_bytes()), ""
        except orjson.JSONDecodeError as exc:
            return None, str(exc)

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object of a .json file; empty for anything else."""
        data = self._parsed[0] if self.suffix == ".json" else None
        return data if isinstance(data, dict) else {}

    @property
    def json_error(self) -> str:
        """Why a .json file is not valid JSON; empty for one that is, and for other files."""
        return self._parsed[1] if self.suffix == ".json" else ""


def _no_claim(file: ArtifactFile) -> Claim:
    return Claim.NONE


@dataclass(frozen=True, kw_only=True)
class Format:
    """The declaration of a format."""

    name: str
    """As in `spec.model.format`; the module's own name."""
    artifact: str
    """Which files it is, in Markdown: for messages and for the tables in README.md and docs/formats.md."""
    claim: Callable[[ArtifactFile], Claim] = _no_claim
    """Recognize a file, from its name and content alone: nothing of it is executed or unpickled."""
    load: Callable[..., Model]
    """Load a file: `load(path)`, and `load(path, allow_pickle=…)` where there is `unsafe`. Raises StartupFailure."""
    unsafe: Callable[[Path], str] | None = None
    """Say why loading a file would run code that it holds, and what to do; empty for a safe one. None: all are safe."""
    native: bool = False
    """Whether a library in C++ reads the file, which may crash on a damaged one: it is loaded in a child first."""
    extra: str = ""
    """The extra of the distribution that brings its library; empty: none is needed."""
    prediction: str
    """The tasks of its models, for the docs."""
    probabilities: str = ""
    """For which models it has probabilities, for the docs."""
    rows: str
    """Why rows of different requests may be computed together (`Model.batching`), or when, for the docs."""


def format_named(name: str) -> Format:
    """Return a format; its module is imported only now, and its library only to load. Raises UnknownFormat."""
    if name not in FORMATS:
        raise UnknownFormat(f"the format {name!r} is not supported; it is one of: {', '.join(FORMATS)}")
    found: Format = importlib.import_module(f"modelyard_runtime.formats.{name}").FORMAT
    return found
