"""Find an artifact's format from its files alone: nothing of it is executed or unpickled here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import LoadFailed, UnknownFormat, UnsafeArtifact

__all__ = ["Detection", "detect"]

_JSON_FORMATS = ("linear", "logistic")
_PICKLES = (".pkl", ".pickle", ".joblib")
_PICKLE_MAGIC = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_SAVE_WITH_SKOPS = "save it with skops instead: skops.io.dump(model, 'model.skops')"


@dataclass(frozen=True)
class Detection:
    """What an artifact is: the format, and the file to load."""

    format: str
    path: Path


def detect(root: Path, wanted: str = "") -> Detection:
    """Return the format of the files below `root`, and the file to load.

    linear and logistic are a `model.json` (or the only .json file) that says so in `type`; sklearn is a `*.skops`. A
    folder that holds nothing but one folder counts as that one, as archives often have it. `wanted` is the format of
    the spec, empty to find it. Raises UnsafeArtifact for a pickle, UnknownFormat and LoadFailed with what to do.
    """
    if wanted and wanted not in FORMATS:
        raise UnknownFormat(f"the format {wanted!r} is not supported; it is one of: {', '.join(FORMATS)}")
    folder = _single_folder(root)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    json_file = _pick(files, (".json",), "model.json")
    skops_file = _pick(files, (".skops",), "model.skops")
    if wanted == "sklearn":
        return Detection("sklearn", skops_file or _fail(folder, files, "sklearn", "*.skops"))
    if wanted:
        path = json_file or _fail(folder, files, wanted, "model.json")
        found = _json_type(path)
        if found != wanted:
            raise UnknownFormat(
                f'{path.name} has "type": "{found}", and the format {wanted} was asked for; correct one'
            )
        return Detection(wanted, path)
    if json_file and skops_file:
        raise UnknownFormat(f"{json_file.name} and {skops_file.name} are both there; say which with spec.model.format")
    if json_file:
        return Detection(_json_type(json_file), json_file)
    return Detection(
        "sklearn", skops_file or _fail(folder, files, "", "model.json (linear, logistic) or *.skops (sklearn)")
    )


def _single_folder(root: Path) -> Path:
    """Go down while a folder holds nothing but one folder."""
    while True:
        entries = list(root.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return root
        root = entries[0]


def _pick(files: Sequence[Path], suffixes: Sequence[str], usual: str) -> Path | None:
    """Return the file of the usual name, or the only one with such a suffix."""
    matching = [path for path in files if path.suffix.lower() in suffixes]
    for path in matching:
        if path.name == usual:
            return path
    if len(matching) > 1:
        names = ", ".join(path.name for path in matching[:5])
        raise UnknownFormat(f"several files could be the model: {names}; name the right one {usual}")
    return matching[0] if matching else None


def _json_type(path: Path) -> str:
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise LoadFailed(f"{path.name} is not valid JSON: {exc}; write it anew") from None
    found = data.get("type") if isinstance(data, dict) else None
    if found not in _JSON_FORMATS:
        raise UnknownFormat(f'{path.name} needs "type": "linear" or "type": "logistic"')
    return str(found)


def _fail(folder: Path, files: Sequence[Path], wanted: str, expected: str) -> Path:
    """Raise for an artifact without the expected file: a pickle, an empty folder, or something else."""
    for path in files:
        if path.suffix.lower() in _PICKLES or _is_pickle(path):
            raise UnsafeArtifact(
                f"{path.name} is a pickle, which can run any code when it is loaded; {_SAVE_WITH_SKOPS}"
            )
    present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    asked = f"the format {wanted} needs" if wanted else "no format matches: expected"
    raise UnknownFormat(f"{asked} {expected}; the artifact holds {present}")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in _PICKLE_MAGIC
