"""The namespaces that a node lives in, as seen from the machine: made, entered, wired up and cleaned up after.

A kubelet expects a machine of its own: it mounts, adds interfaces, and kube-proxy's firewall table has one fixed name.
In namespaces of its own it can have all that without a trace on the developer's machine; the kernel takes everything
back when the first process in them ends, and a parent's death ends that process even if the parent was killed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import sandbox_init
from .errors import CommandFailed, MissingPrerequisite, NotReady
from .processes import Component, Processes
from .run import run, wait_until

__all__ = ["Network", "Sandbox", "clean_up"]


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster: one /16, so that two clusters on a machine do not meet."""

    number: int

    @property
    def link(self) -> str:
        """The machine's end of the cable to the node."""
        return f"modelyard{self.number}"

    @property
    def machine(self) -> str:
        """The machine's address on that cable: what pods call the machine by."""
        return f"10.{self.number}.255.1"

    @property
    def node(self) -> str:
        """The node's address, which is also where the API server and the cluster's DNS listen."""
        return f"10.{self.number}.255.2"

    @property
    def pods(self) -> str:
        """The addresses of pods."""
        return f"10.{self.number}.0.0/20"

    @property
    def services(self) -> str:
        """The addresses of Services."""
        return f"10.{self.number}.128.0/20"

    @property
    def kubernetes(self) -> str:
        """The address of the Service `kubernetes`."""
        return f"10.{self.number}.128.1"

    @property
    def whole(self) -> ipaddress.IPv4Network:
        """All of these."""
        return ipaddress.IPv4Network(f"10.{self.number}.0.0/16")


class Sandbox:
    """Mount, network and process namespaces with one process that holds them.

    Args:
        state_dir: for the state of whatever runs inside.
        processes: starts the process that holds the namespaces.
    """

    def __init__(self, state_dir: Path, processes: Processes) -> None:
        self.state_dir = state_dir
        self._processes = processes
        self._init: int | None = None
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """The addresses that this sandbox was given."""
        if self._network is None:
            raise NotReady("the sandbox is not started")
        return self._network

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another command inside."""
        return ("nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--")

    def start(self) -> None:
        """Make the namespaces and the cable between them and the machine.

        Raises:
            MissingPrerequisite: not root, or the machine does not allow namespaces.
        """
        if os.geteuid() != 0:
            raise MissingPrerequisite("a node takes root: run this with sudo, or use the control plane alone")
        ready = self.state_dir / "ready"
        ready.unlink(missing_ok=True)
        holder = self._processes.start(
            "sandbox",
            [
                "unshare", "--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child",
                "--mount-proc",
                sys.executable, "-I", "-S", sandbox_init.__file__, self.state_dir,
            ],
        )  # fmt: skip
        wait_until(lambda: _is_ready(holder, ready), what="the node's namespaces", timeout=20, explain=holder.explain)
        self._init = _child_of(holder.process.pid)
        # Whoever waits for this one's end knows that every process inside has ended and every mount is gone.
        self._processes.adopt("sandbox-init", self._init)
        self._network = self._connect(self._init)

    def attach(self, init: int, number: int) -> None:
        """Take over a sandbox that another process started, by its first process's id and its network's number."""
        self._init, self._network = init, Network(number)

    @property
    def init(self) -> int:
        """The id of the process that holds the namespaces, as the machine sees it."""
        if self._init is None:
            raise NotReady("the sandbox is not started")
        return self._init

    def start_inside(self, name: str, argv: Sequence[str | Path], *, env: dict[str, str] | None = None) -> Component:
        """Start a program inside."""
        return self._processes.start(name, argv, env=env, prefix=self.prefix)

    def run(self, *argv: str | Path, timeout: float = 120) -> str:
        """Run a command inside to its end and return what it printed."""
        return run(*self.prefix, *argv, timeout=timeout)

    def _connect(self, init: int) -> Network:
        for number in range(200, 250):
            network = Network(number)
            if _is_routed(network.whole):
                continue
            try:
                run(
                    "ip", "link", "add", network.link, "type", "veth",
                    "peer", "name", "uplink", "netns", str(init),
                )  # fmt: skip
            except CommandFailed as error:
                if "exists" in error.stderr:
                    continue  # another cluster took it just now
                raise MissingPrerequisite(f"this machine lets us make no network interface: {error}") from error
            run("ip", "address", "add", f"{network.machine}/30", "dev", network.link)
            run("ip", "link", "set", network.link, "up")
            self.run("ip", "address", "add", f"{network.node}/30", "dev", "uplink")
            self.run("ip", "link", "set", "uplink", "up")
            self.run("ip", "route", "add", "default", "via", network.machine)
            for destination in (network.pods, network.services):
                run("ip", "route", "add", destination, "via", network.node)
            return network
        raise MissingPrerequisite("all of 10.200.0.0/16 to 10.249.0.0/16 are routed elsewhere: no addresses for pods")


def _is_ready(holder: Component, ready: Path) -> bool:
    holder.check()
    return ready.exists()


def _child_of(parent: int) -> int:
    """Return the id of a process's only child."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                if int(stat[stat.rindex(")") + 2 :].split()[1]) == parent:
                    return int(entry.name)
    raise NotReady(f"process {parent} (unshare) has no child any more")


def _is_routed(network: ipaddress.IPv4Network) -> bool:
    """Tell whether the machine has a route of its own into this network."""
    for line in run("ip", "-4", "-o", "route", "show", "table", "all").splitlines():
        words = [word for word in line.split() if word not in {"local", "broadcast", "unicast", "blackhole"}]
        with contextlib.suppress(ValueError, IndexError):
            destination = ipaddress.IPv4Network(words[0], strict=False)
            # A wide route, such as 10.0.0.0/8 to an office, is no obstacle: ours is narrower and wins.
            if destination.prefixlen >= network.prefixlen and destination.subnet_of(network):
                return True
    return False


def clean_up(state_dir: Path, cgroup: str) -> None:
    """Remove what the kernel does not take back by itself: empty control groups and folders, and the node's files."""
    for controller in Path("/sys/fs/cgroup").glob(f"*/{cgroup}"):
        _remove_tree_of_groups(controller)
    if (Path("/sys/fs/cgroup") / cgroup).is_dir():
        _remove_tree_of_groups(Path("/sys/fs/cgroup") / cgroup)
    made = state_dir / sandbox_init.MADE
    for line in reversed(made.read_text().split() if made.exists() else []):
        with contextlib.suppress(OSError):
            Path(line).rmdir()
    made.unlink(missing_ok=True)
    for folder in ("containerd", "kubelet", "etcd"):
        shutil.rmtree(state_dir / folder, ignore_errors=True)


def _remove_tree_of_groups(group: Path) -> None:
    """Remove a control group and those below it; the files in them are the kernel's and go along."""
    for parent, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(parent).rmdir()
