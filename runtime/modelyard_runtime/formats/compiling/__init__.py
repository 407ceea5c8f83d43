"""Fitted scikit-learn estimators as a few numpy operations, several times faster for one row than the original.

The same operations in the same order as scikit-learn's, so that labels are the same to the bit. What is not certain
to be the same is left to the original: `NotCompilable` for an estimator, `UseOriginal` for values.
"""

from modelyard_runtime.formats.compiling.check import compile_checked
from modelyard_runtime.formats.compiling.columns import by_position, first_step, text_columns
from modelyard_runtime.formats.compiling.program import NotCompilable, Program, UseOriginal
from modelyard_runtime.formats.compiling.samples import made_rows

__all__ = [
    "NotCompilable",
    "Program",
    "UseOriginal",
    "by_position",
    "compile_checked",
    "first_step",
    "made_rows",
    "text_columns",
]
