"""A real node for a control plane: containerd, kubelet, kube-proxy, scheduler and the cluster's DNS, as root."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .api import ApiError
from .binaries import Binaries
from .control_plane import NODE_NAME, ControlPlane
from .packages import NODE_PACKAGES, require
from .programs import CONTROL_PLANE, NODE
from .run import Report, say, wait_until
from .runtime import SOCKET, ContainerRuntime
from .sandbox import Sandbox

__all__ = ["Node"]


class Node:
    """Everything between a Pod object and its running processes.

    Args:
        control_plane: started, with the sandbox as its placement.
        sandbox: started; the namespaces in which all of it runs.
        binaries: where the programs come from.
    """

    def __init__(
        self, control_plane: ControlPlane, sandbox: Sandbox, *, binaries: Binaries, report: Report = say
    ) -> None:
        self._control_plane = control_plane
        self._sandbox = sandbox
        self._binaries = binaries
        self._report = report
        self.runtime = ContainerRuntime(sandbox)
        self.folder = sandbox.state_dir / "kubelet"

    @staticmethod
    def prepare(binaries: Binaries) -> None:
        """Raise MissingPrerequisite for what is not installed; build what is not built."""
        require(NODE_PACKAGES)
        binaries.ensure((*CONTROL_PLANE, *NODE))

    def start(self, *, timeout: float = 90) -> None:
        """Start everything and wait until the node is Ready, Services work and names resolve."""
        programs = self._binaries.ensure(NODE)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runtime.start(programs["pause"])
        kubelet = self._start_kubelet(programs["kubelet"])
        self._start_scheduler(programs["kube-scheduler"])
        proxy = self._start_proxy(programs["kube-proxy"])
        dns = self._start_dns(programs["coredns"])
        address = self._sandbox.network.node
        wait_until(self._is_ready, what="the node to be Ready", timeout=timeout, explain=kubelet.explain)
        wait_until(
            lambda: self._answers(f"http://{address}:10256/healthz"),
            what="kube-proxy", timeout=timeout, explain=proxy.explain,
        )  # fmt: skip
        wait_until(
            lambda: self._answers(f"http://{address}:8181/ready"),
            what="CoreDNS", timeout=timeout, explain=dns.explain,
        )  # fmt: skip

    def import_image(self, archive: Path) -> None:
        """Put an image into the node; Pods use it with imagePullPolicy IfNotPresent or Never."""
        self.runtime.import_image(archive)

    def _is_ready(self) -> bool:
        self._control_plane.check()
        try:
            node = self._control_plane.api.request("GET", f"/api/v1/nodes/{NODE_NAME}", timeout=5)
        except ApiError:
            return False
        conditions = node["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _answers(self, url: str) -> bool:
        self._control_plane.check()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def _write(self, name: str, content: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return path

    def _start_kubelet(self, program: Path) -> Any:
        pki = self._control_plane.pki
        none = dict.fromkeys(("memory.available", "nodefs.available", "imagefs.available", "nodefs.inodesFree"), "0%")
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {self._sandbox.network.node}\n")
        config = self._write(
            "kubelet.json",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": False},
                    "x509": {"clientCAFile": str(pki.certificate("ca"))},
                },
                "authorization": {"mode": "AlwaysAllow"},  # of those whom our own authority vouches for
                "tlsCertFile": str(pki.certificate("kubelet")),
                "tlsPrivateKeyFile": str(pki.key("kubelet")),
                "containerRuntimeEndpoint": f"unix://{SOCKET}",
                "clusterDomain": "cluster.local",
                "clusterDNS": [self._sandbox.network.node],
                "resolvConf": str(resolv),
                "volumePluginDir": str(self.folder / "volume-plugins"),
                "podLogsDir": str(self.folder / "pod-logs"),
                # The machine may be a container itself, with few rights over control groups and a nearly full disk.
                "failCgroupV1": False,
                "cgroupDriver": "cgroupfs",
                "cgroupsPerQOS": False,
                "enforceNodeAllocatable": [],
                "localStorageCapacityIsolation": False,
                "failSwapOn": False,
                "evictionHard": none,
                "imageGCHighThresholdPercent": 100,
                "oomScoreAdj": 0,
                "syncFrequency": "10s",
            },
        )
        return self._sandbox.start_inside(
            "kubelet",
            [
                program,
                "--config", config,
                "--kubeconfig", self._control_plane.program_kubeconfig(f"system:node:{NODE_NAME}"),
                "--hostname-override", NODE_NAME,
                "--node-ip", self._sandbox.network.node,
                "--root-dir", self.folder / "root",
                "--cert-dir", self.folder / "pki",
            ],
        )  # fmt: skip

    def _start_scheduler(self, program: Path) -> None:
        kubeconfig = self._control_plane.program_kubeconfig("system:kube-scheduler")
        argv: list[str | Path] = [program, "--kubeconfig", kubeconfig, "--leader-elect=false", "--secure-port", "0"]
        self._sandbox.start_inside("kube-scheduler", argv)

    def _start_proxy(self, program: Path) -> Any:
        config = self._write(
            "kube-proxy.json",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clusterCIDR": self._sandbox.network.pods,
                "clientConnection": {"kubeconfig": str(self._control_plane.program_kubeconfig("system:kube-proxy"))},
                "hostnameOverride": NODE_NAME,
                "healthzBindAddress": f"{self._sandbox.network.node}:10256",
                "oomScoreAdj": 0,
                # These limits are the whole machine's; zero leaves them alone.
                "conntrack": {
                    "maxPerCore": 0,
                    "min": 0,
                    "tcpEstablishedTimeout": "0s",
                    "tcpCloseWaitTimeout": "0s",
                },
            },
        )
        return self._sandbox.start_inside("kube-proxy", [program, "--config", config])

    def _start_dns(self, program: Path) -> Any:
        # As stale as the DNS of a cluster may be: kubeadm's time to live, and a cache that keeps to it.
        # Names outside the cluster do not exist: pods reach nothing outside, and saying so at once beats a time-out.
        address = self._sandbox.network.node
        corefile = self.folder / "Corefile"
        corefile.write_text(
            f"""\
cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    ready {address}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {self._control_plane.kubeconfig} modelyard
        ttl 30
    }}
    cache 30
}}
.:53 {{
    bind {address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
        )
        return self._sandbox.start_inside("coredns", [program, "-conf", corefile])
