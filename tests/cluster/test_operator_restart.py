"""Only one operator at a time here: the tests start and stop their own."""

from pathlib import Path

from gateway import Gateway
from manifest_cases import abtest, model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import Namespace, OperatorProcess, serve
from waiting import eventually


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


def test_an_api_server_that_goes_away_and_comes_back_costs_nothing(
    crds: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Dead when the operator starts, and dead again later: what was applied meanwhile is carried out."""
    ns = Namespace(crds, namespace)
    with Gateway(crds.url) as gateway:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(crds.kubeconfig.read_text().replace(crds.url, gateway.url))
        gateway.close()
        with OperatorProcess(kubeconfig, tmp_path / "log") as operator:
            ns.apply(model_deployment("first"))
            eventually(operator.log.read_text, lambda text: "did not answer" in text or "rror" in text, "a complaint")
            gateway.open()
            eventually(lambda: ns.get("deployment", "first"), bool, "the first Deployment", seconds=90)

            gateway.close()
            ns.apply(model_deployment("second"))
            ns.kubectl("delete", "mdep", "first")
            gateway.open()

            eventually(lambda: ns.get("deployment", "second"), bool, "the second Deployment", seconds=90)
            serve(ns, "second")
            ns.wait_for_condition("mdep", "second", "Ready", "True", "Ready")
            assert operator.stop() == 0
