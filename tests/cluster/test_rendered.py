"""The rendered objects of tests/unit, as a real API server takes them: strictly, and as they were meant."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard_cluster.control_plane import ControlPlane

RENDERED = Path(__file__).parents[1] / "unit/operator/rendered"
Object = dict[str, Any]


def _objects() -> list[tuple[str, Object]]:
    return [
        (file.stem, obj) for file in sorted(RENDERED.glob("*.yaml")) for obj in yaml.safe_load_all(file.read_text())
    ]


def _said(given: Any, live: Any) -> Any:
    """Return the part of a live value that `given` speaks of."""
    if isinstance(given, dict) and isinstance(live, dict):
        return {key: _said(value, live.get(key)) for key, value in given.items()}
    if isinstance(given, list) and isinstance(live, list) and len(given) == len(live):
        return [_said(one, other) for one, other in zip(given, live, strict=True)]
    return live


@pytest.mark.parametrize(("case", "obj"), [pytest.param(*one, id=f"{one[0]}-{one[1]['kind']}") for one in _objects()])
def test_the_api_server_takes_it_without_a_change(crds: ControlPlane, namespace: str, case: str, obj: Object) -> None:
    obj = {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}

    text = crds.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "json"),
        input=json.dumps(obj),
    )

    live = json.loads(text)
    assert _quantities_aside(_said(obj, live)) == _quantities_aside(obj)


def _quantities_aside(value: Any) -> Any:
    """Return a value with its resource quantities left out: an API server writes `0.5Gi` as `512Mi`."""
    if isinstance(value, dict):
        return {key: _quantities_aside(child) for key, child in value.items() if key != "resources"}
    return [_quantities_aside(item) for item in value] if isinstance(value, list) else value
