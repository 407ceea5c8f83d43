"""A rollout that fails, on one machine: the version before runs again until the spec is edited."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from unit.local.installation_support import Installation, installation
from waiting import eventually


def _reason(made: Installation) -> tuple[str, str]:
    conditions = {entry["type"]: entry for entry in made.get("mdep", "sum")["status"]["conditions"]}
    return conditions["Available"]["status"], conditions["UpToDate"]["reason"]


def _predict(url: str) -> dict[str, Any]:
    body = json.dumps({"features": [1, 1]}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_a_version_that_does_not_load_is_given_up_and_the_next_one_is_tried(folder: Path) -> None:
    with installation(folder) as made:
        made.up()
        first, bad, third = (made.weights("sum", number, number, version=str(number)) for number in (1, 2, 3))
        (made.state / "claims/models/sum/2/model.json").write_text('{"type": "linear", "weights": "none"}')
        for manifest in (first, bad, third):
            manifest["spec"]["rollout"] = {"onFailure": "Rollback"}
        made.apply(first)
        made.ready("mdep/sum")
        url = made.get("mdep", "sum")["status"]["url"]

        made.apply(bad)
        eventually(lambda: _reason(made), lambda seen: seen == ("True", "RolledBack"), "the first version runs again")
        eventually(lambda: made.ok("get", "pods").count("sum-") == 1, what="the failed pod is gone")
        meanwhile = _predict(url)
        applied_again = made.apply(bad)
        still = _reason(made)

        made.apply(third)
        made.ready("mdep/sum")
        after = _predict(url)

    assert (meanwhile["prediction"], meanwhile["model_version"]) == (2, "1")
    assert "unchanged" in applied_again
    assert still == ("True", "RolledBack")
    assert (after["prediction"], after["model_version"]) == (6, "3")
