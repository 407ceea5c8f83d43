"""Find an artifact's format from its files alone: nothing of it is executed or unpickled here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from modelyard_runtime.artifacts.torchfiles import torch_kind, why_unsafe
from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import LoadFailed, UnknownFormat, UnsafeArtifact

__all__ = ["Detection", "detect", "single_folder"]

_JSON_FORMATS = ("linear", "logistic")
_NAMES = {"MLmodel": "mlflow", "model.py": "python"}
_SUFFIXES = {".json": "json", ".skops": "sklearn", ".onnx": "onnx", ".ubj": "xgboost"}
_TORCH = (".pt2", ".pt", ".pth", ".ts")
_TEXTS = (".txt", ".lgb", ".lightgbm", ".model")
_PICKLES = (".pkl", ".pickle", ".joblib")
_PICKLE_MAGIC = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_SAVE_WITH_SKOPS = "save it with skops instead: skops.io.dump(model, 'model.skops')"
_EXPECTED = {
    "linear": "model.json",
    "logistic": "model.json",
    "sklearn": "*.skops",
    "onnx": "*.onnx",
    "lightgbm": "*.txt, as booster.save_model writes it",
    "xgboost": "*.ubj or *.json, as save_model writes it",
    "mlflow": "MLmodel",
    "python": "model.py",
    "torch": "*.pt2 as torch.export.save writes it, or *.pt",
}


@dataclass(frozen=True)
class Detection:
    """What an artifact is: the format, the file to load, and whether loading it may run code that it holds."""

    format: str
    path: Path
    allow_pickle: bool = False


def detect(root: Path, wanted: str = "", *, allow_pickle: bool = False) -> Detection:
    """Return the format of the files below `root`, and the file to load.

    linear and logistic are a `model.json` (or the only .json file) that says so in `type`; sklearn is a `*.skops`, or
    with `allow_pickle` a pickle; onnx a `*.onnx`; lightgbm a text file that starts with `tree`; xgboost a `*.ubj` or
    its JSON; mlflow a folder with `MLmodel`; python, with `allow_pickle`, a `model.py`; torch, with `allow_pickle`
    and where no other format is there, a `*.pt2`, `*.pt`, `*.pth` or `*.ts` that PyTorch wrote. A folder that holds
    nothing but one folder counts as that one, as archives often have it. `wanted` is the format of the spec, empty to
    find it. Raises UnsafeArtifact for what could run code and may not, UnknownFormat and LoadFailed with what to do.
    """
    if wanted and wanted not in FORMATS:
        raise UnknownFormat(f"the format {wanted!r} is not supported; it is one of: {', '.join(FORMATS)}")
    folder = single_folder(root)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = _candidates(files, wanted)
    if wanted:
        path = found.get(wanted) or _fail(folder, files, wanted, allow_pickle=allow_pickle)
    else:
        wanted, path = _the_one(folder, files, found, allow_pickle=allow_pickle)
    if not allow_pickle:
        _refuse_code(wanted, path)
    return Detection(wanted, path, allow_pickle)


def single_folder(root: Path) -> Path:
    """Go down while a folder holds nothing but one folder."""
    while True:
        entries = list(root.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return root
        root = entries[0]


def _the_one(folder: Path, files: Sequence[Path], found: Mapping[str, Path], *, allow_pickle: bool) -> tuple[str, Path]:
    """Return the only format that the files have; one with an MLmodel or a model.py is that, whatever lies beside."""
    for format in ("mlflow", "python"):
        if format in found and format in FORMATS:
            return format, found[format]
    if len(found) > 1:
        names = " and ".join(path.name for path in found.values())
        raise UnknownFormat(f"{names} are both there; say which with spec.model.format")
    for format, path in found.items():
        return format, path
    return "", _fail(folder, files, "", allow_pickle=allow_pickle)


def _candidates(files: Sequence[Path], wanted: str) -> dict[str, Path]:
    """Return the file of each format that there is one of. Raises UnknownFormat for several of one format.

    Pickles and files of PyTorch's, which hold code, count only where nothing else does, or where they are `wanted`.
    """
    by_format: dict[str, list[Path]] = {}
    for path in files:
        by_format.setdefault(_format_of(path), []).append(path)
    by_format.pop("", None)
    jsons = by_format.pop("json", [])
    pickles, archives = by_format.pop("pickle", None), by_format.pop("torch", None)
    other = bool(by_format)
    if pickles and not other and not jsons:
        by_format["sklearn"] = pickles
    found = {format: _pick(paths) for format, paths in by_format.items()}
    if jsons and (not found or any(path.name == "model.json" for path in jsons)) and "mlflow" not in found:
        try:
            path = _pick(jsons)
            found.setdefault(_json_type(path), path)
            other = True
        except (UnknownFormat, LoadFailed):
            if not archives or (other and wanted != "torch"):
                raise  # else it is something beside the module, as its signature
    if archives and (wanted == "torch" or not other):
        found["torch"] = _pick(archives)
    return found


def _format_of(path: Path) -> str:
    """Return a file's format; `json` and `pickle` for what may be several, empty for none."""
    suffix = path.suffix.lower()
    if path.name in _NAMES:
        return _NAMES[path.name]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix in _TORCH and torch_kind(path) is not None:
        return "torch"
    if suffix in _TEXTS and _starts_with(path, (b"tree\n", b"tree\r")):
        return "lightgbm"
    return "pickle" if suffix in _PICKLES or _is_pickle(path) else ""


def _pick(paths: Sequence[Path]) -> Path:
    """Return the file of the usual name, or the only one."""
    for path in paths:
        if path.stem == "model":
            return path
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:5])
        raise UnknownFormat(
            f"several files could be the model: {names}; name the right one model{paths[0].suffix.lower()}"
        )
    return paths[0]


def _json_type(path: Path) -> str:
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise LoadFailed(f"{path.name} is not valid JSON: {exc}; write it anew") from None
    if isinstance(data, dict) and isinstance(data.get("learner"), dict) and "xgboost" in FORMATS:
        return "xgboost"
    found = data.get("type") if isinstance(data, dict) else None
    if found not in _JSON_FORMATS:
        raise UnknownFormat(f'{path.name} needs "type": "linear" or "type": "logistic"')
    return str(found)


def _fail(folder: Path, files: Sequence[Path], wanted: str, *, allow_pickle: bool) -> Path:
    """Raise for an artifact without the expected file: a pickle, an empty folder, or something else."""
    for path in files:
        if path.suffix.lower() in _PICKLES or _is_pickle(path):
            if wanted == "sklearn" and allow_pickle:
                return path
            _refuse_code("sklearn", path)
    for format, path in _candidates(files, "").items():
        if wanted in _JSON_FORMATS and format in _JSON_FORMATS:
            raise UnknownFormat(
                f'{path.name} has "type": "{format}", and the format {wanted} was asked for; correct one'
            )
    present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    if wanted:
        raise UnknownFormat(f"the format {wanted} needs {_EXPECTED[wanted]}; the artifact holds {present}")
    expected = ", ".join(f"{_EXPECTED[format]} ({format})" for format in FORMATS if format != "logistic")
    raise UnknownFormat(f"no format matches: expected one of {expected}; the artifact holds {present}")


def _refuse_code(format: str, path: Path) -> None:
    """Raise UnsafeArtifact for what runs its own code."""
    if format == "python":
        raise UnsafeArtifact(
            f"{path.name} is code that would run here; set spec.model.allowPickle: true if you trust it"
        )
    if format == "torch":
        raise UnsafeArtifact(why_unsafe(path))
    if format == "sklearn" and path.suffix.lower() != ".skops":
        raise UnsafeArtifact(
            f"{path.name} is a pickle, which can run any code when it is loaded; {_SAVE_WITH_SKOPS}, "
            "or set spec.model.allowPickle: true if you trust it"
        )


def _is_pickle(path: Path) -> bool:
    return _starts_with(path, _PICKLE_MAGIC)


def _starts_with(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(beginnings)
