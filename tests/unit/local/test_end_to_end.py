"""The whole path on one machine: two models, one test between them, shifted, rolled under load, deleted."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from unit.local.installation_support import installation
from waiting import eventually

USERS = [f"user-{number}" for number in range(300)]


def test_models_split_shifted_rolled_and_deleted(folder: Path) -> None:
    """Predictions come from the variant that the answer names, and no request is lost."""
    with installation(folder) as made:
        made.up()
        made.apply(
            made.weights("current", 1, 1, version="1"), made.weights("challenger", 10, 10, version="1"), split(90, 10)
        )
        made.ready("mdep/current", "mdep/challenger", "abt/sums")
        url = made.get("abt", "sums")["status"]["url"]
        first = assignment(url)
        again = assignment(url)

        made.apply(split(50, 50))
        made.ready("abt/sums")
        second = assignment(url)

        with Load(url) as load:
            eventually(lambda: load.versions["current", "1"] > 20, what="traffic")
            made.apply(made.weights("current", 2, 2, version="2"))
            made.ready("mdep/current", "abt/sums")
            eventually(lambda: load.versions["current", "2"] > 20, what="traffic of the new version")
            eventually(lambda: made.ok("get", "pods").count("current-") == 1, what="the old pod ends")

        table = made.ok("get", "abt", "sums")
        made.ok("delete", "abt/sums", "mdep/current", "mdep/challenger")
        eventually(
            lambda: "current" not in made.ok("get", "all") and "sums" not in made.ok("get", "all"), what="all is gone"
        )

    assert first == again
    assert 10 <= Counter(first.values())["challenger"] <= 60
    assert 110 <= Counter(second.values())["challenger"] <= 190
    assert all(second[user] == "challenger" for user in USERS if first[user] == "challenger")
    assert load.failures == []
    assert "current 50%, challenger 50%" in table


def split(current: int, challenger: int) -> dict[str, Any]:
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ABTest",
        "metadata": {"name": "sums"},
        "spec": {
            "control": "current",
            "variants": [
                {"name": "current", "modelDeployment": "current", "weight": current},
                {"name": "challenger", "modelDeployment": "challenger", "weight": challenger},
            ],
            "assignment": {"header": "x-user-id"},
        },
    }


def predict(url: str, user: str) -> tuple[str, dict[str, Any]]:
    """Return the variant that answered, and its answer."""
    body = json.dumps({"features": [1, 1]}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json", "x-user-id": user})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.headers["x-modelyard-variant"], json.load(response)


def assignment(url: str) -> dict[str, str]:
    """Return which variant answers each user; the prediction must be that variant's."""
    found = {}
    for user in USERS:
        variant, answer = predict(url, user)
        assert answer["prediction"] == {"current": 2, "challenger": 20}[variant]
        found[user] = variant
    return found


class Load:
    """Requests of many users, one after the other, as long as the context is open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.versions: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for user in USERS[:50]:
                try:
                    variant, answer = predict(self._url, user)
                except urllib.error.HTTPError as error:
                    with error:
                        self.failures.append(f"{error.code} {error.read().decode()}")
                except OSError as error:
                    self.failures.append(str(error))
                else:
                    self.versions[variant, answer["model_version"]] += 1
