"""Formats: how an artifact is recognized and becomes a model. One file each, imported only when it is needed."""

from modelyard_runtime.formats.base import Batching, Compiled, InputRefused, Model, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.detect import Detection, detect
from modelyard_runtime.formats.load import load_model

__all__ = [
    "Batching",
    "Compiled",
    "Detection",
    "InputRefused",
    "Model",
    "Rows",
    "RowsModel",
    "TensorSpec",
    "detect",
    "load_model",
]
