"""A whole cluster in one folder: a control plane and, for root, a node; started, found again and taken down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from .binaries import Binaries
from .control_plane import ControlPlane, Placement
from .errors import ClusterError, NotReady
from .node import Node
from .processes import Processes, end_recorded, is_running, read_recorded
from .run import Report, say
from .runtime import ContainerRuntime
from .sandbox import Network, Sandbox, clean_up

__all__ = ["Cluster", "down", "import_image", "running"]

_DESCRIPTION = "cluster.json"


class Cluster:
    """A control plane with a node that runs pods; takes root.

    Use it as a context manager, or `start` and `stop` it. Pods reach each other by name, ClusterIPs, the API server and
    this machine (at `machine_address`); this machine reaches pods and ClusterIPs. No pod reaches anything further away.

    Args:
        state_dir: created if need be; must lie on a real file system, neither in /run nor on an overlay.
        tied: the cluster dies with the calling process. False leaves it running for `down`.
        audit: write an audit log of requests.
        binaries: where the programs come from.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        tied: bool = True,
        audit: bool = False,
        binaries: Binaries | None = None,
        report: Report = say,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self._report = report
        self._audit = audit
        self._tied = tied
        self._binaries = binaries or Binaries(report=report)
        self._processes: Processes | None = None
        self._sandbox: Sandbox | None = None
        self._control_plane: ControlPlane | None = None
        self._node: Node | None = None

    @property
    def control_plane(self) -> ControlPlane:
        """The cluster's control plane: kubeconfig, kubectl and the rest."""
        if self._control_plane is None:
            raise NotReady("the cluster is not started: call start() or use it in a `with` statement")
        return self._control_plane

    @property
    def node(self) -> Node:
        """The cluster's node."""
        if self._node is None:
            raise NotReady("the cluster is not started: call start() or use it in a `with` statement")
        return self._node

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a user who may do everything."""
        return self.control_plane.kubeconfig

    @property
    def machine_address(self) -> str:
        """The address by which pods reach a server on this machine, and to which such a server may bind."""
        if self._sandbox is None:
            raise NotReady("the cluster is not started")
        return self._sandbox.network.machine

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as the administrator and return what it printed."""
        return self.control_plane.kubectl(*args, input=input, timeout=timeout)

    def import_image(self, archive: Path) -> None:
        """Put an image (`docker-archive` or OCI tar) into the node."""
        self.node.import_image(archive)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until pods can run.

        Raises:
            MissingPrerequisite: not root, or something is not installed.
            ComponentFailed, NotReady: something did not come up; the message has the end of its log.
        """
        Node.prepare(self._binaries)
        self._processes = Processes(self.state_dir, tied=self._tied)
        self._sandbox = Sandbox(self.state_dir, self._processes)
        self._sandbox.start()
        network = self._sandbox.network
        (self.state_dir / _DESCRIPTION).write_text(json.dumps({"init": self._sandbox.init, "network": network.number}))
        self._control_plane = ControlPlane(
            self.state_dir,
            audit=self._audit,
            binaries=self._binaries,
            processes=self._processes,
            placement=Placement(
                address=network.node,
                reachable_by_pods=True,
                prefix=self._sandbox.prefix,
                service_cidr=network.services,
                service_address=network.kubernetes,
            ),
            report=self._report,
        )
        self._control_plane.start()
        self._node = Node(self._control_plane, self._sandbox, binaries=self._binaries, report=self._report)
        self._node.start()

    def stop(self) -> None:
        """End everything and remove all but the logs and kubeconfigs."""
        if self._processes is not None:
            self._processes.stop()
        _forget_node(self.state_dir)

    def leave_running(self) -> None:
        """Let go of the cluster without ending it; `down` ends it."""
        if self._processes is not None:
            self._processes.forget()


def down(state_dir: Path) -> list[str]:
    """End a cluster by its folder, whoever started it and however they ended; return what was still running.

    Raises:
        ClusterError: the folder exists but is no cluster's.
    """
    if not state_dir.exists():
        return []
    if not (state_dir / "logs").is_dir():
        raise ClusterError(f"{state_dir} is not the folder of a cluster: nothing was done")
    ended = end_recorded(state_dir)
    _forget_node(state_dir)
    shutil.rmtree(state_dir)
    return ended


def running(state_dir: Path) -> list[str]:
    """Return the names of a cluster's programs that run."""
    return [recorded.name for recorded in read_recorded(state_dir) if is_running(recorded)]


def import_image(state_dir: Path, archive: Path) -> None:
    """Put an image into the node of a cluster that another process started.

    Raises:
        NotReady: no node runs there.
    """
    description = state_dir / _DESCRIPTION
    if not description.exists() or "containerd" not in running(state_dir):
        raise NotReady("no node is running: `scripts/cluster up --node` starts one")
    facts = json.loads(description.read_text())
    sandbox = Sandbox(state_dir, Processes(state_dir, tied=True))
    sandbox.attach(facts["init"], facts["network"])
    ContainerRuntime(sandbox).import_image(archive)


def _forget_node(state_dir: Path) -> None:
    description = state_dir / _DESCRIPTION
    if description.exists():
        clean_up(state_dir, Network(json.loads(description.read_text())["network"]).link)
        description.unlink()
