"""The forms in which answers are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["as_json", "as_yaml", "items_of", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns with three spaces between, as kubectl prints them."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_json(value: Any) -> str:
    """Return indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_yaml(value: Any) -> str:
    """Return YAML in the order of the API, without a final newline."""
    import yaml  # noqa: PLC0415 - only this output needs it

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()


def items_of(objects: Sequence[dict[str, Any]], *, single: bool) -> dict[str, Any]:
    """Return one object as itself, and more in a List."""
    return objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": list(objects)}
