"""The operator under the chart's own ServiceAccount: it can do its work, and asks for nothing that it may not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manifest_cases import abtest, model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import Namespace, OperatorProcess, serve
from waiting import eventually

CHART = Path(__file__).parents[2] / "helm/modelyard"


@pytest.fixture(params=["cluster-wide", "namespaced"])
def installed(request: pytest.FixtureRequest, control_plane: ControlPlane, namespace: str) -> Iterator[tuple[str, str]]:
    """A release of the chart, without its pod: (its namespace, the namespaces that it watches)."""
    watched = namespace if request.param == "namespaced" else ""
    release = f"release-{namespace[-6:]}"
    with control_plane.namespace(release):
        arguments = ["install", "modelyard", str(CHART), "--namespace", release, "--take-ownership"]
        control_plane.helm(*arguments, *(["--set", f"watchNamespaces={{{watched}}}"] if watched else []))
        # Without a node its pod runs nowhere; the test runs the same operator with the same rights.
        yield release, watched
        control_plane.helm("uninstall", "modelyard", "--namespace", release)


def test_a_whole_life_needs_no_more_than_the_chart_grants(
    installed: tuple[str, str], control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    release, watched = installed
    kubeconfig = control_plane.service_account_kubeconfig("modelyard-operator", namespace=release)
    ns = Namespace(control_plane, namespace)
    with OperatorProcess(kubeconfig, tmp_path / "log", namespaces=watched, lease_namespace=release) as operator:
        for name in ("churn", "churn-gbm"):
            ns.apply(model_deployment(name, model={"uri": "pvc://models/churn/1", "name": "churn"}))
            serve(ns, name)
        ns.apply(abtest())
        eventually(lambda: ns.pods("churn-test"), bool, "router pods")
        patch = '[{"op": "replace", "path": "/spec/variants/1/weight", "value": 90}]'
        ns.kubectl("patch", "abt", "churn-test", "--type=json", "-p", patch)
        eventually(
            lambda: (ns.get("abt", "churn-test") or {})["status"].get("epoch"), lambda epoch: epoch == 2, "epoch 2"
        )
        version = (ns.get("configmap", "churn-test-router") or {})["data"]["version"]
        eventually(
            lambda: {
                pod["metadata"]["annotations"].get("modelyard.dev/router-version") for pod in ns.pods("churn-test")
            },
            lambda versions: versions == {version},
            "the pods to be nudged",
        )
        ns.kubectl("delete", "abt", "churn-test")
        ns.kubectl("delete", "mdep", "churn", "churn-gbm")
        # The garbage collector takes note of new kinds every half a minute.
        eventually(lambda: ns.get("deployment", "churn"), lambda seen: seen is None, "the Deployment to go", seconds=90)
        assert operator.stop() == 0

    user = f"system:serviceaccount:{release}:modelyard-operator"
    assert control_plane.audit_log is not None
    events = [json.loads(line) for line in control_plane.audit_log.read_text().splitlines()]
    mine = [event for event in events if event["user"].get("username") == user]
    refused = [event["requestURI"] for event in mine if _lacks_a_right(event.get("responseStatus", {}))]
    assert len(mine) > 50
    assert refused == []
    if watched:
        namespaces = {event["objectRef"].get("namespace") for event in mine if "objectRef" in event}
        assert namespaces <= {watched, release, None}


def _lacks_a_right(answer: dict[str, Any]) -> bool:
    """Return whether the API server said so; namespaces that other tests leave to be deleted answer 403 as well."""
    return answer.get("code") == 403 and "being terminated" not in answer.get("message", "")
