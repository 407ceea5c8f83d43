"""Kubernetes' strategic merge patch on plain dicts: lists of objects are merged by a key, as `kubectl patch` does.

After `k8s.io/apimachinery/pkg/util/strategicpatch`, whose results a test compares with these. Which lists are merged,
and by which key, is Kubernetes' own (`merge_keys`, generated from its OpenAPI document).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["InvalidPatch", "strategic_merge"]

_DIRECTIVE = "$patch"
_RETAIN_KEYS = "$retainKeys"


class InvalidPatch(ValueError):
    """A patch that can't be merged; `path` is the field, such as `spec.containers[0]`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def strategic_merge(target: Mapping[str, Any], patch: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return `target` with `patch` merged into it; neither is changed.

    Objects are merged field by field, and a null takes a field away. A list replaces the one before, but for those that
    `keys` names: their items are merged with those of the same key. New items come first, in the patch's order.
    Directives: `$patch: replace` or `delete` in an object or an item of such a list, and `$retainKeys`.

    Args:
        target: the object.
        patch: what to change in it.
        keys: path of a list -> the field that identifies its items, such as `spec.containers` -> `name`.

    Raises:
        InvalidPatch: an item without its key, an unknown directive, a list for an object, or an object for a list.
    """
    return _merge_object(copy.deepcopy(dict(target)), copy.deepcopy(dict(patch)), _Place("", "", keys))


class _Place:
    """Where in the object: `path` for people, `field` without indices for `keys`."""

    def __init__(self, path: str, field: str, keys: Mapping[str, str]) -> None:
        self.path, self.field, self._keys = path, field, keys

    def child(self, name: str) -> _Place:
        return _Place(f"{self.path}.{name}".lstrip("."), f"{self.field}.{name}".lstrip("."), self._keys)

    def item(self, index: int) -> _Place:
        return _Place(f"{self.path}[{index}]", self.field, self._keys)

    @property
    def key(self) -> str | None:
        return self._keys.get(self.field)


def _merge_object(target: dict[str, Any], patch: dict[str, Any], place: _Place) -> dict[str, Any]:
    directive = patch.pop(_DIRECTIVE, "merge")
    retained = patch.pop(_RETAIN_KEYS, None)
    for name in patch:
        if name.startswith("$"):
            raise InvalidPatch(place.child(name).path, f"an unknown directive: use {_DIRECTIVE} or {_RETAIN_KEYS}")
    if directive == "delete":
        return {}
    if directive == "replace":
        return dict(_new(patch))
    if directive != "merge":
        raise InvalidPatch(place.child(_DIRECTIVE).path, "must be merge, replace or delete")
    if retained is not None:
        if not isinstance(retained, list) or not set(patch) <= set(retained):
            raise InvalidPatch(place.child(_RETAIN_KEYS).path, "must be a list that holds every field of the patch")
        target = {name: value for name, value in target.items() if name in retained}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = _merge_value(target.get(name), value, place.child(name))
    return target


def _merge_value(target: Any, value: Any, place: _Place) -> Any:
    if isinstance(target, dict | list) and type(value) is not type(target):
        kind = "an object" if isinstance(target, dict) else "a list"
        raise InvalidPatch(place.path, f"must be {kind}")
    if isinstance(target, dict):
        return _merge_object(target, value, place)
    if isinstance(target, list) and place.key is not None:
        return _merge_list(target, value, place.key, place)
    if place.key is not None:
        _check_items(value, place.key, place)
    return _new(value)


def _merge_list(target: list[Any], patch: list[Any], key: str, place: _Place) -> list[Any]:
    """Return the list merged by `key`; items that only `target` has keep their place before those they came before."""
    _check_items(patch, key, place)
    if {_DIRECTIVE: "replace"} in patch:
        return list(_new([item for item in patch if item != {_DIRECTIVE: "replace"}]))
    deleted = [item[key] for item in patch if item.get(_DIRECTIVE) == "delete"]
    before = [item for item in target if item.get(key) not in deleted]
    merged = {_key_of(item, key): item for item in before}
    given: list[str] = []
    for index, item in enumerate(patch):
        if item.get(_DIRECTIVE) == "delete":
            continue
        name = _key_of(item, key)
        merged[name] = _merge_object(merged[name], item, place.item(index)) if name in merged else _new(item)
        if name not in given:
            given.append(name)
    order = [_key_of(item, key) for item in before]
    return [merged[name] for name in _interleaved([name for name in order if name not in given], given, order.index)]


def _key_of(item: Mapping[str, Any], key: str) -> str:
    return str(item[key])


def _interleaved(kept: list[str], given: list[str], position: Callable[[str], int]) -> list[str]:
    """Return both lists as one: a kept item first where it was before a given one (upstream: mergeSortedSlice)."""
    result: list[str] = []
    waiting = list(kept)
    for name in given:
        try:
            here = position(name)
        except ValueError:  # it is new
            result.append(name)
            continue
        while waiting and position(waiting[0]) < here:
            result.append(waiting.pop(0))
        result.append(name)
    return result + waiting


def _check_items(patch: Any, key: str, place: _Place) -> None:
    if not isinstance(patch, list):
        raise InvalidPatch(place.path, "must be a list")
    for index, item in enumerate(patch):
        if not isinstance(item, dict):
            raise InvalidPatch(place.item(index).path, "must be an object")
        if item.get(_DIRECTIVE) != "replace" and item.get(key) is None:
            raise InvalidPatch(place.item(index).child(key).path, "is required: items of this list are merged by it")


def _new(value: Any) -> Any:
    """Return what a patch adds where nothing was: without directives, and without nulls."""
    if isinstance(value, dict):
        return {name: _new(child) for name, child in value.items() if child is not None and not name.startswith("$")}
    if isinstance(value, list):
        return [_new(item) for item in value if not (isinstance(item, dict) and _DIRECTIVE in item)]
    return value
