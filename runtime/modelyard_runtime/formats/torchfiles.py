"""PyTorch's files, told apart by what is in them, and why each of them is code: nothing is loaded here."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from zipfile import ZipFile, is_zipfile

__all__ = ["TorchKind", "torch_kind", "why_unsafe"]

_SAFER = "save the model as ONNX instead: torch.onnx.export(module, example, 'model.onnx')"
_OLD_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first object of a file that torch.save wrote before it wrote archives: a pickled number that torch looks for."""


class TorchKind(Enum):
    """What wrote a file; the value says why loading it may run code."""

    PROGRAM = "an exported program: loading it evaluates text and unpickles objects that are in it"
    SCRIPT = "TorchScript: its own code runs when it is loaded, and may write files"
    PICKLE = (
        "a pickle of torch.save's, which can run any code when it is loaded (and a state dict can't be served at all)"
    )


def torch_kind(path: Path) -> TorchKind | None:
    """Return what a file is; None for what PyTorch did not write, whatever its name says."""
    with path.open("rb") as file:
        if file.read(len(_OLD_SAVE)) == _OLD_SAVE:
            return TorchKind.PICKLE
    try:
        if not is_zipfile(path):
            return None
        with ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged archive fails in many ways, and is none of ours
        return None
    # All but the oldest exported programs keep their files in one folder, whose name is free.
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in names or {"archive_format", "models/model.json"} <= inner:
        return TorchKind.PROGRAM
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return TorchKind.SCRIPT
    return TorchKind.PICKLE if "data.pkl" in inner else None


def why_unsafe(path: Path) -> str:
    """Return why a file of PyTorch's is not loaded without leave, and what to do."""
    kind = torch_kind(path)
    what = f"{path.name} is {kind.value}" if kind is not None else f"{path.name} may hold code"
    return f"{what}; {_SAFER}, or set spec.model.allowPickle: true if you trust it"
