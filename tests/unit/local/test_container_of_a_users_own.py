"""`spec.container` on one machine: a server that knows nothing of Modelyard, rolled and tested like any model."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from unit.local.installation_support import Installation, installation
from waiting import eventually

Object = dict[str, Any]


def _page(made: Installation, version: str) -> Object:
    """Put a page into the claim `models`; return a ModelDeployment whose server is Python's own."""
    folder = made.state / "claims/models/page" / version
    folder.mkdir(parents=True)
    (folder / "page.txt").write_text(version)
    serve = 'exec python -m http.server 8000 --bind "$MODELYARD_HOST" --directory "$FILES"'
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "page"},
        "spec": {
            "model": {"uri": f"pvc://models/page/{version}", "version": version},
            "container": {
                "image": "registry.example/page:1",
                "command": ["sh", "-c", serve],
                "env": [{"name": "FILES", "value": "/mnt/model"}],
                "port": 8000,
                "readinessPath": "/page.txt",
            },
            "serving": {"drainDelay": "2s"},
        },
    }


def _abtest() -> Object:
    variants = [{"name": name, "modelDeployment": name, "weight": 1} for name in ("page", "sum")]
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ABTest",
        "metadata": {"name": "both"},
        "spec": {"control": "page", "variants": variants, "assignment": {"header": "x-user-id"}},
    }


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def _variant(url: str, user: str) -> str:
    """Return the variant that answered, be it that it has no such page."""
    request = urllib.request.Request(url, headers={"x-user-id": user})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["x-modelyard-variant"])
    except urllib.error.HTTPError as error:
        return str(error.headers["x-modelyard-variant"])


def test_it_gets_its_model_and_is_rolled_without_a_lost_request(folder: Path) -> None:
    failures, seen, stop = [], set(), threading.Event()

    def ask(url: str) -> None:
        while not stop.is_set():
            try:
                seen.add(_get(url))
            except OSError as error:
                failures.append(str(error))

    with installation(folder) as made:
        made.up()
        made.apply(_page(made, "1"))
        made.ready("mdep/page")
        url = made.get("mdep", "page")["status"]["url"] + "/page.txt"
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        try:
            eventually(lambda: "1" in seen, what="answers of the first version")
            made.apply(_page(made, "2"))
            made.ready("mdep/page")
            eventually(lambda: "2" in seen, what="answers of the second version")
            eventually(lambda: made.ok("get", "pods").count("page-") == 1, what="the old pod ends")
        finally:
            stop.set()
            asking.join()
        status = made.get("mdep", "page")["status"]

    assert failures == []
    assert (status["model"]["version"], status["model"]["format"]) == ("2", "any")


def test_an_abtest_splits_between_it_and_a_model_of_ours(folder: Path) -> None:
    with installation(folder) as made:
        made.up()
        made.apply(_page(made, "1"), made.weights("sum", 1, 1, version="1"), _abtest())
        made.ready("mdep/page", "mdep/sum", "abt/both")
        url = made.get("abt", "both")["status"]["url"]

        answers = {_variant(f"{url}/page.txt", f"user-{number}") for number in range(60)}

    assert answers == {"page", "sum"}
