"""The trial of an author's word that a model's rows are independent: rows alone and together give the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modelyard_runtime.formats.base import Array, Model, RowsModel, TensorSpec

__all__ = ["dependence_of_rows"]

_ROWS = 4
_SIZES = (2, 3, 1, 8, 32)
"""Sizes to try for axes of any length, but the rows."""


def dependence_of_rows(model: RowsModel) -> str:
    """Return why the model's rows are not independent, or can't be tried; empty where a trial finds that they are.

    The first axis of every input and output has to be the rows, under one name where axes have names. Then a few
    different rows, made up from the inputs' datatypes and shapes, are computed together and alone: outputs have to
    be of the same form, whole ones equal, others to 1e-4 of the largest (matrix products round otherwise for
    another number of rows). A model may still tell rows apart that were not tried: that is the author's word.
    """
    for spec in (*model.inputs, *model.outputs):
        if spec.shape[:1] != (-1,):
            return f"the first axis of {spec.name} is not any number of rows, its shape is {list(spec.shape)}"
    axes = sorted(set(model.row_axes))
    if len(axes) > 1:
        return f"its tensors begin with different axes: {', '.join(axes)}"
    refusal = ""
    for made in _made_inputs(model):
        try:
            return _difference(model, made)
        except Exception as exc:
            refusal = refusal or f"it can't be tried on made-up rows ({type(exc).__name__}: {str(exc)[:200]})"
    return refusal or "it can't be tried: it has no inputs"


def _made_inputs(model: RowsModel) -> list[dict[str, Array]]:
    random = np.random.default_rng(0)
    samples = model.sample_rows()
    made = [{spec.name: _made(spec, size, random) for spec in model.inputs} for size in _SIZES]
    if len(model.inputs) == 1 and len(samples) > 1 and all(rows.shape == samples[0].shape for rows in samples):
        # The model's own samples come last: rows that differ more are the better trial.
        made.append({model.inputs[0].name: np.concatenate([*samples, *samples])})
    return made


def _made(spec: TensorSpec, size: int, random: np.random.Generator) -> Array:
    """Return rows of a tensor that differ from each other."""
    shape = (_ROWS, *(size if length < 0 else length for length in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return random.choice(np.array(["a", "b", "text"], dtype=object), shape)
    if spec.datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if spec.datatype.startswith(("INT", "UINT")):
        # Positions in a vocabulary, often: those that every vocabulary has.
        return random.integers(0, 2, shape).astype(spec.datatype.lower())
    scale = np.array([0.1, 1.0, 3.0, 10.0]).reshape(_ROWS, *(1 for _ in shape[1:]))
    values = random.normal(size=shape) * scale
    typed: Array = values.astype({"FP16": np.float16, "FP64": np.float64}.get(spec.datatype, np.float32))
    return typed


def _difference(model: Model, tensors: Mapping[str, Array]) -> str:
    count = len(next(iter(tensors.values())))
    together = _outputs(model, tensors)
    alone = [
        _outputs(model, {name: tensor[index : index + 1] for name, tensor in tensors.items()}) for index in range(count)
    ]
    for name, values in together.items():
        if any(row[name].shape != (1, *values.shape[1:]) for row in alone) or len(values) != count:
            return f"{name} has not one row a row"
        if not _same(values, np.concatenate([row[name] for row in alone])):
            return f"{name} of rows that are computed together differs from that of each alone"
    return ""


def _outputs(model: Model, tensors: Mapping[str, Array]) -> dict[str, Array]:
    found = dict(model.infer(tensors))
    if model.probabilities is not None and len(tensors) == 1:
        found["probabilities"] = model.predict_proba(next(iter(tensors.values())))
    return {name: np.asarray(values) for name, values in found.items()}


def _same(together: Array, alone: Array) -> bool:
    if together.dtype.kind != "f":
        return np.array_equal(together, alone)
    values = together.astype(np.float64)
    finite = values[np.isfinite(values)]
    tolerance = 1e-4 * max(1e-300, float(np.abs(finite).max(initial=0)))
    return bool(np.allclose(values, alone.astype(np.float64), rtol=1e-4, atol=tolerance, equal_nan=True))
