"""Encoders of categories as numpy: a table of each feature's categories, and a column for each."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from modelyard_runtime.formats.base import Array
from modelyard_runtime.formats.compiling.program import NotCompilable, Step, UseOriginal, to_floats

__all__ = ["one_hot_encoder", "ordinal_encoder"]

_Table: TypeAlias = dict[Any, float]
_MAX_WIDTH = 4096
"""More columns than this are better kept sparse, as the original does."""
_FEW_VALUES = 64
"""Up to here, looking up single values is faster than searching whole columns."""


def one_hot_encoder(encoder: Any) -> Step:
    """1 in the column of the row's category, 0 in the others; a dropped or, if allowed, unknown one has none."""
    _refuse_groups(encoder)
    strict = encoder.handle_unknown == "error"
    tables: list[_Table] = []
    width = 0
    for feature, categories in enumerate(encoder.categories_):
        dropped = encoder.drop_idx_[feature] if encoder.drop_idx_ is not None else None
        kept = [index for index in range(len(categories)) if index != dropped]
        column = dict(zip(kept, range(width, width + len(kept)), strict=True))
        tables.append(_table(categories, [column.get(index, -1) for index in range(len(categories))]))
        width += len(kept)
    if width > _MAX_WIDTH:
        raise NotCompilable(f"OneHotEncoder with {width} columns has no compiled form")
    lookups = [_Lookup(table, None if strict else -1.0) for table in tables]

    def run(rows: Array) -> Array:
        if rows.shape[1] != len(lookups):
            raise UseOriginal
        out = np.zeros((len(rows), width))
        if rows.size <= _FEW_VALUES:
            for index, row in enumerate(rows.tolist()):
                for lookup, value in zip(lookups, row, strict=True):
                    column = int(lookup.one(value))
                    if column >= 0:
                        out[index, column] = 1.0
            return out
        for position, lookup in enumerate(lookups):
            columns = lookup.many(rows[:, position]).astype(np.intp)
            there = np.flatnonzero(columns >= 0)
            out[there, columns[there]] = 1.0
        return out

    return run


def ordinal_encoder(encoder: Any) -> Step:
    """The index of the row's category."""
    _refuse_groups(encoder)
    unknown = float(encoder.unknown_value) if encoder.handle_unknown == "use_encoded_value" else None
    lookups = [_Lookup(_table(categories, range(len(categories))), unknown) for categories in encoder.categories_]

    def run(rows: Array) -> Array:
        if rows.shape[1] != len(lookups):
            raise UseOriginal
        if rows.size <= _FEW_VALUES:
            return np.array(
                [[lookup.one(value) for lookup, value in zip(lookups, row, strict=True)] for row in rows.tolist()]
            )
        return np.stack([lookup.many(rows[:, position]) for position, lookup in enumerate(lookups)], axis=1)

    return run


class _Lookup:
    """The codes of one feature's categories; `unknown` is the code of any other, None to leave it to the original."""

    def __init__(self, table: _Table, unknown: float | None) -> None:
        self._table = table
        self._unknown = unknown
        self._numbers = all(isinstance(category, float) for category in table)
        if self._numbers:
            self._values = np.array(sorted(table))
            self._codes = np.array([table[value] for value in sorted(table)])

    def one(self, value: Any) -> float:
        """Return the code of one value."""
        code = self._table.get(value, self._unknown)
        # Missing values may be a category, or refused: the original knows.
        if code is None or value is None or _is_nan(value) or isinstance(value, str) == self._numbers:
            raise UseOriginal
        return code

    def many(self, column: Array) -> Array:
        """Return the codes of a column."""
        if not self._numbers or not len(self._values):
            return np.array([self.one(value) for value in column.tolist()])
        column = to_floats(column)
        if not np.isfinite(column).all():
            raise UseOriginal
        found = np.searchsorted(self._values, column)
        found[found == len(self._values)] = 0
        known = self._values[found] == column
        if known.all():
            return np.asarray(self._codes[found])
        if self._unknown is None:
            raise UseOriginal
        return np.where(known, self._codes[found], self._unknown)


def _table(categories: Array, codes: Any) -> _Table:
    """Return the code of each category; a category for missing values has none, as those go to the original."""
    table: _Table = {}
    for category, code in zip(categories.tolist(), codes, strict=True):
        if isinstance(category, str):
            table[category] = float(code)
        elif isinstance(category, (bool, int, float)):
            if not _is_nan(category):
                table[float(category)] = float(code)
        elif category is not None:
            raise NotCompilable("an encoder of categories that are neither numbers nor text has no compiled form")
    if len({isinstance(category, str) for category in table}) > 1:
        raise NotCompilable("an encoder of numbers and text in one feature has no compiled form")
    return table


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _refuse_groups(encoder: Any) -> None:
    if getattr(encoder, "_infrequent_enabled", False):
        raise NotCompilable(f"{type(encoder).__name__} that groups infrequent categories has no compiled form")
