"""The format `mlflow`: a folder with an MLmodel file, read without MLflow.

The flavours sklearn, xgboost, lightgbm and onnx are loaded as the formats of these names; a pickle in one of them only
where the spec allows it. The signature's columns become the names of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from modelyard_runtime.errors import LoadFailed, UnknownFormat
from modelyard_runtime.formats.base import RowsModel
from modelyard_runtime.formats.format import ArtifactFile, Claim, Format, format_named
from modelyard_runtime.formats.native import check_in_child
from modelyard_runtime.formats.threads import library

__all__ = ["FORMAT", "load"]

_FLAVORS = ("sklearn", "xgboost", "lightgbm", "onnx")


def load(path: Path, *, allow_pickle: bool = False) -> RowsModel:
    """Load the model that an MLmodel file describes. Raises UnsafeArtifact, UnknownFormat, LoadFailed."""
    yaml = library("yaml", "mlflow")
    try:
        described = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise LoadFailed(f"{path.name} is not valid YAML: {str(exc)[:300]}; log the model again") from None
    flavors = described.get("flavors") if isinstance(described, dict) else None
    if not isinstance(flavors, dict):
        raise LoadFailed(f"{path.name} has no flavors; log the model again with mlflow.sklearn.log_model for instance")
    name = next((flavor for flavor in _FLAVORS if isinstance(flavors.get(flavor), dict)), None)
    if name is None:
        shown = ", ".join(map(str, list(flavors)[:6])) or "none"
        raise UnknownFormat(
            f"{path.name} has the flavors {shown}; of MLflow's, {', '.join(_FLAVORS)} can be served. "
            "Others can, as the format python"
        )
    file = _data(path, name, flavors[name])
    model: RowsModel = _load(name, file, allow_pickle=allow_pickle)
    signature = _signature(path, described.get("signature"))
    _name_features(path, model, signature)
    kept = {key: described[key] for key in ("mlflow_version", "model_uuid", "run_id") if described.get(key)}
    model.metadata = {**model.metadata, **{key: str(value) for key, value in kept.items()}, "signature": signature}
    return model


def _data(path: Path, flavor: str, fields: Mapping[str, Any]) -> Path:
    """Return the file that holds the model, which is within the folder."""
    name = fields.get("pickled_model") if flavor == "sklearn" else fields.get("data")
    name = name or fields.get("data") or fields.get("model_path")
    if not isinstance(name, str) or not name:
        raise LoadFailed(f"{path.name} does not say which file holds the {flavor} model; log the model again")
    folder = path.parent.resolve()
    file = (folder / name).resolve()
    if not file.is_relative_to(folder):
        raise LoadFailed(f"{path.name} names {name}, which is outside of the artifact; log the model again")
    if not file.is_file():
        raise LoadFailed(f"{path.name} names {name}, which is not there; fetch the whole folder")
    return file


def _load(flavor: str, file: Path, *, allow_pickle: bool) -> Any:
    # The scikit-learn kinds of LightGBM's and XGBoost's models may be pickled.
    pickled = file.suffix in {".pkl", ".pickle", ".joblib", ".cloudpickle"}
    format = format_named("sklearn" if pickled else flavor)
    if format.unsafe is not None:
        return format.load(file, allow_pickle=allow_pickle)
    if format.native:
        check_in_child(format.name, file)
    return format.load(file)


def _signature(path: Path, signature: Any) -> dict[str, Any]:
    """Return inputs and outputs of the signature, which MLflow writes as JSON in the YAML."""
    if not isinstance(signature, dict):
        return {}
    found: dict[str, Any] = {}
    for key in ("inputs", "outputs"):
        value = signature.get(key)
        try:
            found[key] = orjson.loads(value) if isinstance(value, str) else value
        except orjson.JSONDecodeError:
            raise LoadFailed(f"the signature's {key} in {path.name} are not JSON; log the model again") from None
    return found


def _name_features(path: Path, model: RowsModel, signature: Mapping[str, Any]) -> None:
    """Give the model the names of the signature's columns, where it has none of its own."""
    columns = signature.get("inputs")
    if not isinstance(columns, list) or not all(isinstance(column, dict) and "name" in column for column in columns):
        return
    names = tuple(str(column["name"]) for column in columns)
    if any(column.get("type") == "tensor" for column in columns) or not names:
        return
    if model.features is not None and model.features != len(names):
        raise LoadFailed(
            f"the signature in {path.name} has {len(names)} columns and the model {model.features} features; "
            "log the model again with the signature of what it was trained on"
        )
    if model.feature_names is None and len(set(names)) == len(names):
        model.feature_names = names
        model.features = len(names)


def _claim(file: ArtifactFile) -> Claim:
    return Claim.FOLDER if file.name == "MLmodel" else Claim.NONE


def _unsafe(path: Path) -> str:
    """Return nothing: the file is YAML, and what it names is judged when that is loaded."""
    return ""


FORMAT = Format(
    name="mlflow",
    artifact="a folder with `MLmodel`; flavours sklearn, xgboost, lightgbm, onnx",
    claim=_claim,
    load=load,
    unsafe=_unsafe,
    extra="mlflow",
    prediction="as the flavour's format",
    probabilities="as the flavour's format",
    rows="as the flavour's format",
)
