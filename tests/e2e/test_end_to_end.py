"""The whole path on a real node: chart, examples, predictions by DNS name, a shift, rollouts, a restart, the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.steps import Shop
from modelyard_cluster import Cluster
from waiting import eventually

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[2] / "examples"
Object = dict[str, Any]


@pytest.fixture
def row(trained: Path) -> Object:
    held_out = json.loads((trained / "held-out.json").read_text())
    return {"features": held_out["instances"][0]}


@pytest.fixture
def applied(shop: Shop) -> Shop:
    """The examples, applied and ready."""
    shop.kubectl("apply", "-f", str(EXAMPLES / "models.yaml"), "-f", str(EXAMPLES / "abtest.yaml"))
    shop.wait_ready("abt", "diagnosis-test")
    for name in ("diagnosis", "diagnosis-forest"):
        shop.wait_ready("mdep", name)
    return shop


def _uri(path: str) -> Object:
    return {"op": "replace", "path": "/spec/model/uri", "value": f"pvc://models/{path}"}


def test_the_examples_predict_shift_and_go(applied: Shop, row: Object) -> None:
    """One user's whole story: apply, predict by name, shift on the wire, delete, and everything is gone."""
    before = applied.ask("before", "diagnosis-test", row, users=1000)
    assert before["failed"] == 0, before["failures"]
    assert before["versions"].keys() == {"1", "forest-1"}
    assert 50 <= before["counts"]["forest"] <= 150

    weights = [{"op": "replace", "path": f"/spec/variants/{i}/weight", "value": 50} for i in (0, 1)]
    applied.patch("abt", "diagnosis-test", *weights)
    applied.wait_ready("abt", "diagnosis-test")

    after = applied.ask("after", "diagnosis-test", row, users=1000)
    assert after["failed"] == 0, after["failures"]
    assert 430 <= after["counts"]["forest"] <= 570
    challengers = [user for user, variant in before["variants"].items() if variant == "forest"]
    assert {after["variants"][user] for user in challengers} == {"forest"}
    assert "logistic 50%, forest 50%" in applied.kubectl("get", "abt", "diagnosis-test")

    applied.kubectl("delete", "-f", str(EXAMPLES / "abtest.yaml"), "-f", str(EXAMPLES / "models.yaml"))
    kinds = "deployment,replicaset,pod,service,configmap"
    eventually(
        lambda: applied.kubectl("get", kinds, "-l", "modelyard.dev/component", "-o", "name").split(),
        lambda names: names == [],
        "all children to be gone",
        seconds=120,
    )


def test_a_rollout_under_load_loses_no_request(applied: Shop, row: Object) -> None:
    """Through the model's own Service and through the router at once, while new pods replace old ones."""
    applied.start_client("direct", "diagnosis", row, users=0)
    applied.start_client("routed", "diagnosis-test", row, users=0)
    for name in ("direct", "routed"):
        applied.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")

    applied.patch(
        "mdep", "diagnosis", _uri("diagnosis/2"), {"op": "replace", "path": "/spec/model/version", "value": "2"}
    )
    applied.wait_ready("mdep", "diagnosis")
    eventually(
        lambda: applied.kubectl("get", "pods", "-l", "modelyard.dev/name=diagnosis", "-o", "name").split(),
        lambda pods: len(pods) == 1,
        "the old pod to end",
    )

    direct, routed = applied.stop_client("direct"), applied.stop_client("routed")
    assert (direct["failed"], routed["failed"]) == (0, 0), (direct["failures"], routed["failures"])
    assert direct["versions"].keys() == {"1", "2"}
    assert routed["versions"].keys() == {"1", "2", "forest-1"}
    assert applied.get("mdep", "diagnosis")["status"]["model"]["version"] == "2"


def test_a_bad_artifact_leaves_the_old_version_serving(applied: Shop, row: Object, trained: Path) -> None:
    broken = trained / "models" / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "model.skops").write_bytes(b"not a zip file")

    applied.patch("mdep", "diagnosis", _uri("broken"))

    eventually(
        lambda: applied.condition("mdep", "diagnosis", "Ready"),
        lambda condition: condition.get("reason") == "LoadFailed",
        "the reason in Ready",
    )
    assert "LoadFailed" in applied.kubectl("get", "mdep", "diagnosis")
    assert applied.condition("mdep", "diagnosis", "Available")["status"] == "True"
    answer = applied.ask("still", "diagnosis", row, users=50)
    assert (answer["failed"], list(answer["versions"])) == (0, ["1"])

    applied.patch("mdep", "diagnosis", _uri("diagnosis/2"))
    applied.wait_ready("mdep", "diagnosis")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"uri": "pvc://models/nowhere"}, "ArtifactNotFound"),
        ({"uri": "pvc://models/diagnosis/1", "digest": "sha256:" + "0" * 64}, "DigestMismatch"),
        ({"uri": "pvc://models/pickled"}, "UnsafeArtifact"),
    ],
)
def test_a_model_that_cannot_be_fetched_says_why(shop: Shop, trained: Path, model: Object, reason: str) -> None:
    pickled = trained / "models" / "pickled"
    pickled.mkdir(exist_ok=True)
    (pickled / "model.pkl").write_bytes(b"\x80\x04N.")

    shop.apply(
        {
            "apiVersion": "modelyard.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "bad"},
            "spec": {"model": model},
        }
    )

    condition = eventually(
        lambda: shop.condition("mdep", "bad", "Ready"),
        lambda condition: condition.get("reason") == reason,
        f"{reason} in Ready",
    )
    assert condition["message"]


def test_a_restart_of_the_operator_changes_nothing(applied: Shop, installed: Cluster, row: Object) -> None:
    versions = "-o=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}"
    kinds = "mdep,abt,deployment,service,configmap,pod"
    before = applied.kubectl("get", kinds, versions)
    applied.start_client("load", "diagnosis-test", row, users=0)
    applied.kubectl("wait", "--for=condition=Ready", "pod/load", "--timeout=60s")

    installed.kubectl("-n", "modelyard-system", "rollout", "restart", "deployment/modelyard-operator")
    installed.kubectl("-n", "modelyard-system", "rollout", "status", "deployment/modelyard-operator", "--timeout=120s")
    # Proof that the new one works: it makes another object's children.
    other = next(yaml.safe_load_all((EXAMPLES / "models.yaml").read_text()))
    other["metadata"]["name"] = "other"
    applied.apply(other)
    applied.wait_ready("mdep", "other")
    applied.kubectl("delete", "mdep", "other")

    loaded = applied.stop_client("load")
    assert loaded["failed"] == 0, loaded["failures"]
    eventually(
        lambda: [line for line in applied.kubectl("get", kinds, versions).splitlines() if " other" not in line],
        lambda lines: (
            "\n".join(lines) == before.strip()
            or [line for line in lines if "load" not in line] == before.split("\n")[:-1]
        ),
        "nothing to have changed",
    )
