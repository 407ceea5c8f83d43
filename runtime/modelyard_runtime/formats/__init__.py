"""Formats: how an artifact becomes a model. One file each, imported only when it is needed."""

from modelyard_runtime.formats.base import Compiled, InputRefused, Model, Rows, RowsModel, TensorSpec
from modelyard_runtime.formats.load import load_model

__all__ = ["Compiled", "InputRefused", "Model", "Rows", "RowsModel", "TensorSpec", "load_model"]
