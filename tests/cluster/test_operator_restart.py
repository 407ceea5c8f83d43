"""Only one operator at a time here: the tests start and stop their own."""

from pathlib import Path

from manifest_cases import abtest, model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import Namespace, OperatorProcess, eventually, serve


def test_a_restart_of_the_operator_changes_nothing(crds: ControlPlane, namespace: str, tmp_path: Path) -> None:
    ns = Namespace(crds, namespace)
    with OperatorProcess(crds.kubeconfig, tmp_path / "first.log") as first:
        for name in ("churn", "churn-gbm"):
            ns.apply(model_deployment(name, model={"uri": "pvc://models/churn/1", "name": "churn"}))
            serve(ns, name)
        ns.apply(abtest())
        ns.wait_for_condition("abt", "churn-test", "RouterAvailable", "False", "Starting")
        ns.wait_for_condition("mdep", "churn", "Ready", "True", "Ready")
        assert first.stop() == 0
    kinds = "mdep,abt,deployment,service,configmap"
    versions = "-o=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}"
    before = ns.kubectl("get", kinds, versions)

    with OperatorProcess(crds.kubeconfig, tmp_path / "second.log"):
        ns.apply(model_deployment("other"))
        eventually(lambda: ns.get("deployment", "other"), bool, "the second operator to work")
        ns.kubectl("delete", "mdep", "other")
        eventually(lambda: ns.get("deployment", "other"), lambda seen: seen is None, "the Deployment to go")

    eventually(lambda: ns.kubectl("get", kinds, versions), lambda after: after == before, "nothing to have changed")
