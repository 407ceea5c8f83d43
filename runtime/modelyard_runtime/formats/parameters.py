"""Read the JSON of the linear and logistic formats: every field checked, with errors that name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from modelyard_runtime.errors import LoadFailed
from modelyard_runtime.formats.format import ArtifactFile, Claim

__all__ = ["Parameters", "claim_of_type", "read_parameters"]


@dataclass(frozen=True)
class Parameters:
    """The fields that linear and logistic share."""

    weights: npt.NDArray[np.float64]
    """Of shape (features,), or (outputs, features): one row of weights an output or class."""
    bias: npt.NDArray[np.float64]
    """Of shape () or (outputs,)."""
    classes: tuple[str | int | float | bool, ...] | None
    feature_names: tuple[str, ...] | None
    metadata: Mapping[str, Any]


def claim_of_type(name: str) -> Callable[[ArtifactFile], Claim]:
    """Return the claim of a format on JSON files whose `type` is `name`; `model.json` is the usual one."""

    def claim(file: ArtifactFile) -> Claim:
        if file.json.get("type") != name:
            return Claim.NONE
        return Claim.FILE if file.name == "model.json" else Claim.ANY_NAME

    return claim


def read_parameters(path: Path) -> Parameters:
    """Read `{"weights", "bias"?, "classes"?, "feature_names"?, "metadata"?}`. Raises LoadFailed, naming the field."""
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise LoadFailed(f"{path.name} is not valid JSON: {exc}; write it anew") from None
    if not isinstance(data, dict):
        raise LoadFailed(f"{path.name} needs to be a JSON object with type, weights and bias")
    if "weights" not in data:
        raise LoadFailed(f"{path.name} lacks weights: a list of numbers, one a feature")
    weights = _numbers(path, "weights", data["weights"], (1, 2))
    bias = _numbers(path, "bias", data.get("bias", 0.0), (0, 1))
    if weights.size == 0:
        raise LoadFailed(f"weights of {path.name} are empty; give one number a feature")
    if weights.ndim == 1 and bias.shape == (1,):
        bias = bias.reshape(())
    if weights.ndim == 2 and bias.ndim == 0:
        bias = np.full(weights.shape[0], float(bias))
    if bias.shape != weights.shape[:-1]:
        expected = "one number" if weights.ndim == 1 else f"{weights.shape[0]} numbers, one a row of weights"
        raise LoadFailed(f"bias of {path.name} has {bias.size} numbers, and {expected} is expected")
    names = _names(path, data.get("feature_names"), weights.shape[-1])
    metadata = data.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise LoadFailed(f"metadata of {path.name} needs to be an object")
    return Parameters(weights, bias, _classes(path, data.get("classes")), names, metadata or {})


def _numbers(path: Path, field: str, value: Any, dimensions: tuple[int, ...]) -> npt.NDArray[np.float64]:
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        raise LoadFailed(f"{field} of {path.name} has rows of different lengths; give each the same") from None
    if array.size and array.dtype.kind not in "iuf":
        raise LoadFailed(f"{field} of {path.name} needs to be made of numbers only")
    if array.ndim not in dimensions:
        wanted = " or ".join(
            {0: "one number", 1: "a list of numbers", 2: "a list of such lists"}[n] for n in dimensions
        )
        raise LoadFailed(f"{field} of {path.name} needs to be {wanted}; it has {array.ndim} dimensions")
    return np.asarray(array, dtype=np.float64, order="C")


def _names(path: Path, value: Any, features: int) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise LoadFailed(f"feature_names of {path.name} needs to be a list of strings")
    if len(value) != features or len(set(value)) != features:
        raise LoadFailed(
            f"feature_names of {path.name} needs {features} different names, one a weight; it has {len(value)}"
        )
    return tuple(value)


def _classes(path: Path, value: Any) -> tuple[str | int | float | bool, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(label, (str, int, float)) for label in value):
        raise LoadFailed(
            f"classes of {path.name} needs to be a list of strings or numbers, in the order of the weights"
        )
    if len(set(map(repr, value))) != len(value):
        raise LoadFailed(f"classes of {path.name} has a label twice; give each class its own")
    return tuple(value)
