"""Find an artifact's format from its files alone: nothing of it is executed or unpickled here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import LoadFailed, UnknownFormat, UnsafeArtifact
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format, format_named

__all__ = ["Detection", "contents", "detect", "single_folder"]

_SYSTEM = frozenset({"__MACOSX", "lost+found", "Thumbs.db", "desktop.ini"})
_DOCUMENT = re.compile(r"(readme|licen[cs]e|notice|changelog)(\.(txt|html|pdf))?|.*\.(md|rst)", re.IGNORECASE)


@dataclass(frozen=True)
class Detection:
    """What an artifact is: the format, the file to load, and whether loading it may run code that it holds."""

    format: str
    path: Path
    allow_pickle: bool = False


def detect(root: Path, wanted: str = "", *, allow_pickle: bool = False) -> Detection:
    """Return the format of the files below `root`, and the file to load.

    The formats say which files are theirs (`Format.claim`); the strongest claim decides. A folder that holds nothing
    but one folder (`contents`) counts as that one, as archives often have it. `wanted` is the format of the spec, empty
    to find it. Raises UnsafeArtifact for what could run code and may not, UnknownFormat and LoadFailed with what to do.
    """
    folder = single_folder(root)
    files = [ArtifactFile(path) for path in contents(folder) if path.is_file()]
    if wanted:
        format = format_named(wanted)
        claimed = _strongest(files, [format])
        if not claimed:
            _refuse_other(folder, files, format)
    else:
        claimed = _strongest(files, [format_named(name) for name in FORMATS])
        if not claimed:
            _refuse_unknown(folder, files)
        format = format_named(next(iter(claimed)))
    found = {name: _pick(paths) for name, paths in claimed.items()}
    if len(found) > 1:
        names = " and ".join(path.name for path in found.values())
        raise UnknownFormat(f"{names} are both there; say which with spec.model.format")
    path = found[format.name]
    reason = format.unsafe(path) if format.unsafe is not None and not allow_pickle else ""
    if reason:
        raise UnsafeArtifact(reason)
    return Detection(format.name, path, allow_pickle)


def contents(folder: Path) -> list[Path]:
    """Return the files and folders of `folder` that can be a model, sorted.

    Without hidden ones and those that systems and tools leave (`__MACOSX`, `._x`, `.DS_Store`, `lost+found`, a mounted
    ConfigMap's `..data`, `.git`, `.cache`), and without documents such as README and LICENSE.
    """
    return sorted(
        entry
        for entry in folder.iterdir()
        if not (entry.name.startswith(".") or entry.name in _SYSTEM or _DOCUMENT.fullmatch(entry.name))
    )


def single_folder(root: Path) -> Path:
    """Go down while the `contents` of a folder are one folder."""
    while True:
        entries = contents(root)
        if len(entries) != 1 or not entries[0].is_dir():
            return root
        root = entries[0]


def _strongest(files: Sequence[ArtifactFile], formats: Sequence[Format]) -> dict[str, list[Path]]:
    """Return the files of the strongest claim, by format; empty where nothing is claimed."""
    claims = [(format.claim(file), format.name, file.path) for file in files for format in formats]
    strongest = max((claim for claim, _, _ in claims), default=Claim.NONE)
    found: dict[str, list[Path]] = {}
    for claim, name, path in claims:
        if claim is strongest and claim:
            found.setdefault(name, []).append(path)
    return found


def _pick(paths: Sequence[Path]) -> Path:
    """Return the file of the usual name, or the only one. Raises UnknownFormat."""
    for path in paths:
        if path.stem == "model":
            return path
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:5])
        raise UnknownFormat(
            f"several files could be the model: {names}; name the right one model{paths[0].suffix.lower()}"
        )
    return paths[0]


def _refuse_other(folder: Path, files: Sequence[ArtifactFile], wanted: Format) -> None:
    """Raise for an artifact without a file of the format that was asked for."""
    _refuse_damaged(files)
    others: Mapping[str, Sequence[Path]] = _strongest(files, [format_named(name) for name in FORMATS])
    for name, paths in others.items():
        raise UnknownFormat(
            f"{paths[0].name} is of the format {name}, and {wanted.name} was asked for, which needs "
            f"{_plain(wanted)}; correct one"
        )
    raise UnknownFormat(f"the format {wanted.name} needs {_plain(wanted)}; the artifact holds {_listing(folder)}")


def _refuse_unknown(folder: Path, files: Sequence[ArtifactFile]) -> None:
    """Raise for an artifact without a file of any format."""
    _refuse_damaged(files)
    expected = ", ".join(f"{_plain(format_named(name))} ({name})" for name in FORMATS)
    raise UnknownFormat(f"no format matches: expected one of {expected}; the artifact holds {_listing(folder)}")


def _refuse_damaged(files: Sequence[ArtifactFile]) -> None:
    for file in files:
        if file.json_error:
            raise LoadFailed(f"{file.name} is not valid JSON: {file.json_error}; write it anew")


def _plain(format: Format) -> str:
    return format.artifact.replace("`", "")


def _listing(folder: Path) -> str:
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
