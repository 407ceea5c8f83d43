"""Rows of numbers from parsed JSON: strict about types, and clear about what was wrong and where."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from modelyard_runtime.errors import WrongInput
from modelyard_runtime.formats.base import Model, Rows
from modelyard_runtime.protocols.json_reader import kind_of

__all__ = ["rows_of_features", "rows_of_instances"]

_NUMBERS = (int, float)  # bool is an int, as in JSON Schema's own numpy readers: true is 1


def rows_of_features(model: Model, features: Any) -> Rows:
    """Return one row, of shape (1, features), from a list or an object of named numbers. Raises WrongInput."""
    return _to_rows(model, [_in_order(model, features, "features")], "features")


def rows_of_instances(model: Model, instances: Any) -> Rows:
    """Return rows, of shape (rows, features), from a list of what `rows_of_features` takes, or of an array.

    Raises WrongInput.
    """
    if isinstance(instances, np.ndarray):
        if model.features in (None, instances.shape[1]) and not model.text_features:
            return instances
        instances = instances.tolist()  # to say what is wrong with it
    if not isinstance(instances, list):
        raise WrongInput(
            f"instances is {kind_of(instances)}; send a list of rows, [[1.0, 2.0], [3.0, 4.0]] for instance"
        )
    if not instances:
        raise WrongInput("instances is empty; send at least one row")
    rows = [
        row if type(row) is list else _in_order(model, row, f"instances[{index}]")
        for index, row in enumerate(instances)
    ]
    return _to_rows(model, rows, "instances")


def _in_order(model: Model, row: Any, where: str) -> list[Any]:
    """Return a row as a list, in the model's order of names."""
    if type(row) is list:
        return row
    if isinstance(row, str) and model.features == 1 and model.text_features:
        return [row]  # the one text of a model of texts
    if not isinstance(row, dict):
        raise WrongInput(f"{where} is {kind_of(row)}; send a list of numbers{_or_names(model)}")
    names = model.feature_names
    if names is None:
        raise WrongInput(f"{where} is an object, and this model does not know the names of its features; send a list")
    try:
        ordered = [row[name] for name in names]
    except KeyError:
        missing = [name for name in names if name not in row]
        raise WrongInput(f"{where} lacks {_listing(missing)}; expected {_listing(names)}") from None
    if len(row) != len(names):
        unknown = sorted(set(row).difference(names))
        raise WrongInput(f"{where} has the unknown {_listing(unknown)}; expected {_listing(names)}")
    return ordered


def _to_rows(model: Model, rows: Sequence[list[Any]], field: str) -> Rows:
    """Turn rows of numbers into an array; array('d') takes numbers alone, where numpy would also read "1" and null."""
    width = model.features if model.features is not None else len(rows[0])
    for index, row in enumerate(rows):
        if len(row) != width:
            _wrong_width(model, rows, index, width, field)
    if model.text_features:
        return _mixed_rows(model, rows, width, field)
    try:
        values = array.array("d", rows[0] if len(rows) == 1 else list(chain.from_iterable(rows)))
    except TypeError:
        if model.takes_missing and any(None in row for row in rows):
            rows = [[math.nan if value is None else value for value in row] for row in rows]
            return _to_rows(model, rows, field)
        _wrong_type(rows, field)
    if not values:
        raise WrongInput(f"{_place(field, 0)} is empty; send one number a feature")
    return np.frombuffer(values).reshape(len(rows), width)


def _mixed_rows(model: Model, rows: Sequence[list[Any]], width: int, field: str) -> Rows:
    """Turn rows of numbers and text into an array of objects."""
    mixed = np.empty((len(rows), width), dtype=object)
    for index, row in enumerate(rows):
        for column, value in enumerate(row):
            text = column in model.text_features
            if value is None and model.takes_missing:
                continue
            if not isinstance(value, str if text else _NUMBERS):
                wanted = "text" if text else "a number"
                raise WrongInput(f"{_place(field, index)}[{column}] is {kind_of(value)}; send {wanted}")
        mixed[index] = [math.nan if value is None else value for value in row] if None in row else row
    return mixed


def _wrong_width(model: Model, rows: Sequence[list[Any]], index: int, width: int, field: str) -> NoReturn:
    got = len(rows[index])
    shape = f"shape [{len(rows)}, {width}]" if field == "instances" else f"shape [{width}]"
    names = f" ({_listing(model.feature_names)})" if model.feature_names else ""
    raise WrongInput(f"{_place(field, index)} has {got} numbers, expected {width}{names}: {field} needs {shape}")


def _wrong_type(rows: Sequence[list[Any]], field: str) -> NoReturn:
    for index, row in enumerate(rows):
        for column, value in enumerate(row):
            if not isinstance(value, _NUMBERS):
                raise WrongInput(f"{_place(field, index)}[{column}] is {kind_of(value)}; send a number")
    raise WrongInput(f"{field} needs to be made of numbers only")


def _place(field: str, index: int) -> str:
    return field if field == "features" else f"{field}[{index}]"


def _or_names(model: Model) -> str:
    return f" or an object with {_listing(model.feature_names)}" if model.feature_names else ""


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:12])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 12 else shown
