"""The operator before its CRDs, and when they are replaced; on a control plane of its own, since CRDs are shared."""

from pathlib import Path

import pytest
from manifest_cases import model_deployment
from modelyard_cluster.control_plane import ControlPlane
from modelyard_cluster.errors import MissingPrerequisite
from operator_process import Namespace, OperatorProcess
from waiting import eventually

CRDS = str(Path(__file__).parents[2] / "crds")


def _install(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "-f", CRDS)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")


def test_it_waits_for_its_crds_says_so_and_takes_up_those_that_replace_them(tmp_path: Path) -> None:
    control_plane = ControlPlane(tmp_path / "control-plane")
    try:
        control_plane.start()
    except MissingPrerequisite as error:
        pytest.skip(str(error))
    ns = Namespace(control_plane, "default")
    try:
        with OperatorProcess(control_plane.kubeconfig, tmp_path / "log") as operator:
            eventually(
                operator.log.read_text,
                lambda text: "modeldeployments.modelyard.dev is not there: apply crds/" in text,
                "a word of what is missing",
            )
            _install(control_plane)
            ns.apply(model_deployment("first"))
            eventually(lambda: ns.get("deployment", "first"), bool, "the first Deployment")

            ns.kubectl("delete", "-f", CRDS)
            eventually(
                lambda: operator.log.read_text().count("modeldeployments.modelyard.dev is not there"),
                lambda count: count == 2,
                "a word of what went",
                seconds=90,
            )
            _install(control_plane)
            ns.apply(model_deployment("second"))
            eventually(lambda: ns.get("deployment", "second"), bool, "the second Deployment")
            assert operator.stop() == 0
    finally:
        control_plane.stop()
