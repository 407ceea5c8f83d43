"""Formats: how an artifact becomes a model. One file each, imported only when it is needed."""

from modelyard_runtime.formats.base import InputRefused, Model, Rows, TensorSpec
from modelyard_runtime.formats.load import load_model

__all__ = ["InputRefused", "Model", "Rows", "TensorSpec", "load_model"]
