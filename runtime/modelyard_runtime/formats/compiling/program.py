"""What a compiled model is: functions of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from modelyard_runtime.formats.base import Array

__all__ = ["NotCompilable", "Program", "Step", "UseOriginal", "kind_of", "to_floats"]

Step: TypeAlias = Callable[[Array], Array]
"""From rows to rows: shape (rows, columns) in, (rows, other columns) out; never changes its argument."""


class NotCompilable(Exception):
    """This estimator has no compiled form here; the message says what in it has none."""


class UseOriginal(Exception):
    """Let the original answer for these values: it refuses them, or knows what to do with them."""


@dataclass(frozen=True)
class Program:
    """A compiled model. Its functions raise UseOriginal."""

    features: int
    """The width of the rows; others are the original's to refuse."""
    predict: Step
    """From (rows, features) to predictions, of shape (rows,) or (rows, outputs)."""
    predict_proba: Step | None
    """From (rows, features) to probabilities, of shape (rows, classes)."""
    inline: bool
    """Whether a row costs microseconds only."""
    max_rows: int
    """The original is as fast for more rows than this."""


def kind_of(estimator: Any) -> str:
    """Return the class name of one of scikit-learn's own estimators. Raises NotCompilable for others."""
    kind = type(estimator)
    if not kind.__module__.startswith("sklearn."):
        raise NotCompilable(f"{kind.__name__} is not scikit-learn's own")
    return str(kind.__name__)


def to_floats(rows: Array) -> Array:
    """Return rows as numbers; text among them is the original's to judge."""
    if rows.dtype == np.float64:
        return rows
    try:
        return rows.astype(np.float64)
    except (TypeError, ValueError):
        raise UseOriginal from None
