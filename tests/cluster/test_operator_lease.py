"""Two operators of one installation: one works, the other takes over."""

import json
import signal
from functools import partial
from pathlib import Path

from manifest_cases import model_deployment
from modelyard_cluster.control_plane import ControlPlane
from operator_process import Namespace, OperatorProcess
from waiting import eventually


def _holder(ns: Namespace) -> str:
    lease = ns.get("lease", "modelyard-operator")
    return "" if lease is None else lease["spec"].get("holderIdentity", "")


def test_the_one_that_stands_by_takes_over_when_the_other_is_killed_and_when_it_ends(
    crds: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    ns = Namespace(crds, namespace)
    with (
        OperatorProcess(crds.kubeconfig, tmp_path / "a", namespaces=namespace, lease_namespace=namespace) as first,
    ):
        holder = eventually(lambda: _holder(ns), bool, "a holder")
        with OperatorProcess(
            crds.kubeconfig, tmp_path / "b", namespaces=namespace, lease_namespace=namespace
        ) as second:
            eventually(second.log.read_text, lambda text: f"{holder} holds Lease" in text, "the second to stand by")
            ns.apply(model_deployment("one"))
            eventually(lambda: ns.get("deployment", "one"), bool, "the first to work")

            first.stop(signal.SIGKILL)
            ns.apply(model_deployment("two"))

            eventually(lambda: ns.get("deployment", "two"), bool, "the second to take over", seconds=15)
            assert _holder(ns) not in ("", holder)
            assert second.stop() == 0
    assert _holder(ns) == ""


def test_a_holder_that_lost_its_lease_stops(crds: ControlPlane, namespace: str, tmp_path: Path) -> None:
    ns = Namespace(crds, namespace)
    with OperatorProcess(crds.kubeconfig, tmp_path / "log", namespaces=namespace, lease_namespace=namespace) as process:
        eventually(lambda: _holder(ns), bool, "a holder")

        patch = json.dumps({"spec": {"holderIdentity": "another"}})
        ns.kubectl("patch", "lease", "modelyard-operator", "--type=merge", "-p", patch)

        assert process.wait() != 0
        assert "another may hold Lease" in process.log.read_text()


def test_of_two_installations_that_overlap_one_stands_back_until_the_other_is_gone(
    crds: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Each would roll the other's pods: their images differ."""
    ns = Namespace(crds, namespace)
    other = f"{namespace[:40]}-other"
    with (
        crds.namespace(other),
        OperatorProcess(crds.kubeconfig, tmp_path / "a", namespaces=namespace, lease_namespace=namespace) as first,
        OperatorProcess(
            crds.kubeconfig, tmp_path / "b", namespaces=namespace, lease_namespace=other, runtime_image="other:1"
        ) as second,
    ):
        for name in ("one", "two", "three"):
            ns.apply(model_deployment(name))
        logs = {first: namespace, second: other}
        for name in ("one", "two", "three"):
            eventually(partial(ns.get, "deployment", name), bool, f"Deployment {name}")
        eventually(
            lambda: [process.log.read_text() for process in logs],
            lambda logs: "OtherOperator" in "".join(logs),
            "a word",
        )
        ns.apply(model_deployment("four"))
        eventually(lambda: ns.get("deployment", "four"), bool, "Deployment four")
        made = [ns.get("deployment", name) or {} for name in ("one", "two", "three", "four")]
        assert [deployment["metadata"]["generation"] for deployment in made] == [1, 1, 1, 1]
        owner = made[0]["metadata"]["annotations"]["modelyard.dev/operator"]
        [winner] = [process for process, lease_namespace in logs.items() if lease_namespace == owner]
        [loser] = [process for process in logs if process is not winner]

        assert winner.stop() == 0

        eventually(
            lambda: (ns.get("deployment", "one") or {})["metadata"]["annotations"]["modelyard.dev/operator"],
            lambda operator: operator == logs[loser],
            "the other to take over",
            seconds=60,
        )
