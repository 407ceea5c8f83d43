"""Categories of boosters: from the values that a model was trained on to the codes that its trees hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard_runtime.formats.base import InputRefused, Rows

__all__ = ["Categories"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Categories:
    """The categorical columns of a booster. A code is the position of a value among the column's categories."""

    values: Mapping[int, Sequence[Any]]
    """The categories of each column by position: text, or numbers; empty where not known: codes are taken."""
    names: Sequence[str] | None
    """The names of all columns, for messages."""
    refuse_unknown: bool
    """Whether a value that is none of the categories is refused; else it counts as missing, as the library has it."""

    @property
    def text(self) -> frozenset[int]:
        """The positions of columns whose categories are text."""
        return frozenset(
            column for column, values in self.values.items() if any(isinstance(value, str) for value in values)
        )

    def warn(self) -> None:
        """Tell in the log which columns take codes, as their categories are not known."""
        columns = [self._name(column) for column, values in self.values.items() if not values]
        if columns:
            _logger.warning(
                "the file does not say which values the categories of %s stand for: send their codes, 0, 1, …",
                ", ".join(columns),
            )

    def encode(self, rows: Rows) -> Rows:
        """Return rows as numbers, of shape (rows, features), categories as codes. Raises InputRefused."""
        if not self.values:
            return rows
        encoded = np.empty(rows.shape)
        try:
            for column in range(rows.shape[1]):
                known = self.values.get(column)
                if known is None:
                    encoded[:, column] = rows[:, column]
                else:
                    encoded[:, column] = self._codes(column, known, rows[:, column].tolist())
        except (TypeError, ValueError) as exc:
            if isinstance(exc, InputRefused):
                raise
            raise InputRefused(f"{self._name(column)} needs to be a number") from None
        return encoded

    def _codes(self, column: int, known: Sequence[Any], given: Sequence[Any]) -> list[float]:
        if not known:
            return [self._checked(column, value) for value in given]
        codes = {value: float(code) for code, value in enumerate(known)}
        return [np.nan if _missing(value) else self._code(column, codes, value) for value in given]

    def _code(self, column: int, codes: Mapping[Any, float], value: Any) -> float:
        code = codes.get(value)
        if code is None and self.refuse_unknown:
            shown = ", ".join(repr(category) for category in list(codes)[:10])
            raise InputRefused(f"{self._name(column)} is {value!r}, which is none of its categories: {shown}")
        return np.nan if code is None else code

    def _checked(self, column: int, value: Any) -> float:
        """Return a code as it was sent; the trees would take any other number for some code."""
        if not _missing(value) and (value < 0 or value != int(value)):
            raise InputRefused(f"{self._name(column)} is {value!r}, and takes the code of a category: 0, 1, …")
        return np.nan if value is None else float(value)

    def _name(self, column: int) -> str:
        return self.names[column] if self.names else f"feature {column}"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))
