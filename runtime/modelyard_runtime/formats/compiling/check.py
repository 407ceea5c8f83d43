"""Compile a fitted estimator, and believe it only after it has agreed with the original."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.columns import compile_steps, pipeline_steps
from modelyard_runtime.formats.compiling.linear import compile_linear
from modelyard_runtime.formats.compiling.program import NotCompilable, Program, Step, UseOriginal
from modelyard_runtime.formats.compiling.samples import made_rows
from modelyard_runtime.formats.compiling.trees import compile_trees

__all__ = ["compile_checked"]

_ANY_NUMBER = 2**31
_TREE_VALUES = 1 << 14
"""Rows times trees up to which numpy is faster than the original's loop."""
_ALONE = 8
"""How many of the sample rows are also predicted one by one, as most requests come."""


def compile_checked(estimator: Any, features: int | None, text: frozenset[int]) -> Program:
    """Return the compiled form of a fitted estimator, checked on sample rows. Raises NotCompilable with the reason.

    Labels must be the same; probabilities and numbers may differ by rounding, 1e-9 relative to the largest.
    """
    if features is None:
        raise NotCompilable("it does not know its number of features")
    try:
        program = _compile(estimator, features)
        rows = made_rows(estimator, features, text)
        _compare(program.predict, estimator.predict, rows)
        if program.predict_proba is not None:
            _compare(program.predict_proba, estimator.predict_proba, rows)
    except NotCompilable:
        raise
    except UseOriginal:
        raise NotCompilable("its compiled form does not take values that the model was fitted on") from None
    except Exception as exc:
        # Whatever fitted attributes a file has: the original still serves.
        raise NotCompilable(f"compiling failed ({type(exc).__name__}: {str(exc)[:200]})") from None
    return program


def _compile(estimator: Any, features: int) -> Program:
    steps = pipeline_steps(estimator)
    if not steps:
        raise NotCompilable("it has no steps")
    model = steps[-1]
    transform = compile_steps(steps[:-1])
    linear, trees = compile_linear(model), compile_trees(model)
    if linear is not None:
        predict, predict_proba = linear
        max_rows = _ANY_NUMBER
    elif trees is not None:
        predict, predict_proba, count = trees
        max_rows = max(1, _TREE_VALUES // count)
    else:
        raise NotCompilable(f"{type(model).__name__} has no compiled form")
    return Program(
        features=features,
        predict=_after(transform, predict) if len(steps) > 1 else predict,
        predict_proba=_after(transform, predict_proba) if predict_proba and len(steps) > 1 else predict_proba,
        inline=linear is not None,
        max_rows=max_rows,
    )


def _after(transform: Step, step: Step) -> Step:
    def run(rows: Array) -> Array:
        return step(transform(rows))

    return run


def _compare(compiled: Step, original: Step, rows: Array) -> None:
    batches = [rows, *(rows[index : index + 1] for index in range(_ALONE))]
    for batch in batches:
        got, expected = compiled(batch), np.asarray(original(batch))
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise NotCompilable("its compiled form has answers of another form than the original's")
        if expected.dtype.kind == "f":
            tolerance = 1e-9 * max(1e-300, float(np.abs(expected).max(initial=0)))
            same = np.allclose(got, expected, rtol=1e-9, atol=tolerance)
        else:
            same = np.array_equal(got, expected)
        if not same:
            raise NotCompilable("its compiled form differs from the original on sample rows")
