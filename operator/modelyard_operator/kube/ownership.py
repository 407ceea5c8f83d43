"""Field ownership, as the API server keeps it in `metadata.managedFields`. Pure functions.

What we applied is still there as long as we own every field of it: whoever changes or removes one of our fields takes
its ownership away (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management). So nothing has
to be known of defaults, of quantities that are written another way, or of what admission webhooks change.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelyard_operator.manifests.common import Object

__all__ = ["applied_fields", "has_field", "owns", "with_spec_taken_over", "without_field"]


def applied_fields(obj: Object, manager: str) -> Object:
    """Return the fields (FieldsV1) that a manager owns by server-side apply; none is an empty dict."""
    for entry in obj["metadata"].get("managedFields", ()):
        if _is_ours(entry, manager):
            fields: Object = entry.get("fieldsV1", {})
            return fields
    return {}


def owns(fields: Mapping[str, Any], rendered: Object) -> bool:
    """Return whether a manager's fields cover all that is rendered, but for what names the object."""
    metadata = {key: value for key, value in rendered["metadata"].items() if key not in ("name", "namespace", "uid")}
    content = {key: value for key, value in rendered.items() if key not in ("apiVersion", "kind", "metadata")}
    return _owns_value(fields, {**content, "metadata": metadata})


def _owns_value(fields: Mapping[str, Any], value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_owns_child(fields, f"f:{key}", child) for key, child in value.items() if child is not None)
    if isinstance(value, list):
        return all(_owns_item(fields, item) for item in value)
    return not fields


def _owns_child(fields: Mapping[str, Any], path: str, value: Any) -> bool:
    """Return whether a member is owned; where nothing is below its path, it is owned as a whole."""
    return path in fields and (not fields[path] or _owns_value(fields[path], value))


def _owns_item(fields: Mapping[str, Any], item: Any) -> bool:
    if not isinstance(item, Mapping):
        return f"v:{json.dumps(item)}" in fields
    for path, below in fields.items():
        if path.startswith("k:"):
            key: Object = json.loads(path[2:])
            given = key.keys() & item.keys()  # a key may hold defaults, such as a port's protocol
            if given and all(key[name] == item[name] for name in given):
                return not below or _owns_value(below, item)
    return False


def with_spec_taken_over(managed: Iterable[Object], manager: str) -> list[Object]:
    """Return managedFields in which a manager owns what others had set in `spec` and `data`.

    The manager's next apply then removes from there what it does not render. Status, metadata and what came through a
    subresource (`scale`) stay whose they are.
    """
    entries = [dict(entry) for entry in managed]
    ours = next((entry for entry in entries if _is_ours(entry, manager)), None)
    if ours is None:
        return entries
    fields: Object = ours.get("fieldsV1", {})
    for entry in entries:
        if entry is ours or entry.get("subresource"):
            continue
        theirs = entry.get("fieldsV1", {})
        taken = {path: below for path, below in theirs.items() if path in ("f:spec", "f:data")}
        fields = _union(fields, taken)
        entry["fieldsV1"] = {path: below for path, below in theirs.items() if path not in taken}
    ours["fieldsV1"] = fields
    return [entry for entry in entries if entry.get("fieldsV1")]


def has_field(fields: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Return whether fields (FieldsV1) hold a path, such as `("f:spec", "f:replicas")`."""
    here: Any = fields
    for step in path:
        if step not in here:
            return False
        here = here[step]
    return True


def without_field(managed: Iterable[Object], manager: str, path: Sequence[str]) -> list[Object]:
    """Return managedFields in which a manager no longer owns, by server-side apply, the field at a path."""
    entries = copy.deepcopy(list(managed))
    for entry in entries:
        if _is_ours(entry, manager) and has_field(entry.get("fieldsV1", {}), path):
            *parents, last = path
            place = entry["fieldsV1"]
            for step in parents:
                place = place[step]
            del place[last]
    return entries


def _union(first: Object, second: Object) -> Object:
    merged = dict(first)
    for path, below in second.items():
        if path in merged and not merged[path]:
            continue  # owned as a whole already
        merged[path] = _union(merged[path], below) if path in merged and below else below
    return merged


def _is_ours(entry: Mapping[str, Any], manager: str) -> bool:
    return entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
