"""etcd, kube-apiserver and kube-controller-manager: all of Kubernetes but the nodes, ready in seconds, without root.

Deployments become ReplicaSets and Pods, what has lost its owner is deleted, RBAC and CRD validation are the real ones.
Nothing runs the Pods; `Node` does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .api import Api, ApiError
from .binaries import Binaries
from .errors import NotReady
from .kubeconfig import write_kubeconfig
from .pki import Pki, make_pki
from .processes import Component, Processes
from .programs import CONTROL_PLANE
from .run import Report, run, say, wait_until

__all__ = ["NODE_NAME", "ControlPlane", "Placement"]

NODE_NAME: Final = "modelyard"
"""The one node that a control plane lets in."""

_USERS: Final = {
    "admin": "system:masters",
    f"system:node:{NODE_NAME}": "system:nodes",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}
"""Who has a token, and the group that it puts them into; Kubernetes itself grants roles to the names."""


@dataclass(frozen=True)
class Placement:
    """Where a control plane runs; the default is loopback and ports that are free now."""

    address: str = "127.0.0.1"
    """Clients reach the API server here."""
    reachable_by_pods: bool = False
    """Publish `address` as the endpoint of the Service `kubernetes`; loopback would not do."""
    prefix: tuple[str, ...] = ()
    """Command that enters the node's namespaces."""
    service_cidr: str = "10.96.0.0/16"
    service_address: str = "10.96.0.1"
    """The Service `kubernetes`: the first address of `service_cidr`."""


class ControlPlane:
    """A Kubernetes control plane in a folder of its own.

    Use it as a context manager, or `start` and `stop` it. Everything it knows is gone after `stop`.

    Args:
        state_dir: created if need be; holds etcd's data, keys, kubeconfigs and logs.
        audit: write an audit log of requests and their metadata to `audit.log` in `state_dir`.
        binaries: where the programs come from.
        processes: starts the programs; by default they die with the calling process.
        placement: where they run.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        audit: bool = False,
        binaries: Binaries | None = None,
        processes: Processes | None = None,
        placement: Placement | None = None,
        report: Report = say,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.audit_log = self.state_dir / "audit.log" if audit else None
        self.placement = placement or Placement()
        self._tokens = {user: secrets.token_urlsafe(32) for user in _USERS}
        self.url = ""
        self._report = report
        self._binaries = binaries or Binaries(report=report)
        self._processes = processes or Processes(self.state_dir, tied=True)
        self._pki = Pki(self.state_dir / "pki")
        self._api: Api | None = None

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a user who may do everything (group system:masters)."""
        return self.state_dir / "kubeconfig"

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self._tokens["admin"]

    @property
    def ca_file(self) -> Path:
        """The authority (PEM) that signed the API server's certificate."""
        return self._pki.certificate("ca")

    @property
    def pki(self) -> Pki:
        """The cluster's keys and certificates."""
        return self._pki

    @property
    def api(self) -> Api:
        """Sends requests as the administrator."""
        if self._api is None:
            raise NotReady("the control plane is not started: call start() or use it in a `with` statement")
        return self._api

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

    def start(self, *, timeout: float = 90) -> None:
        """Start the programs and wait until they serve.

        Raises:
            MissingPrerequisite, BuildFailed: there is nothing to start.
            ComponentFailed, NotReady: a program ended, or did not serve within `timeout` seconds.
        """
        programs = self._binaries.ensure(CONTROL_PLANE)
        here = self.placement
        client, peer, secure = self._ports()
        self.url = f"https://{here.address}:{secure}"
        addresses = sorted({"127.0.0.1", here.address, here.service_address})
        self._pki = make_pki(self.state_dir / "pki", addresses)
        self._write_tokens()
        write_kubeconfig(self.kubeconfig, server=self.url, ca_file=self.ca_file, user="admin", token=self.token)
        self._api = Api(self.url, self.token, self.ca_file)

        self._start_etcd(programs["etcd"], client, peer)
        apiserver = self._start_apiserver(programs["kube-apiserver"], client, secure)
        wait_until(self._ready, what="the API server's /readyz", timeout=timeout, explain=apiserver.explain)
        manager = self._start_manager(programs["kube-controller-manager"])
        wait_until(
            lambda: self._has_account("default"),
            what="the controller manager to make the service account `default`",
            timeout=timeout,
            explain=manager.explain,
        )

    def stop(self) -> None:
        """End the programs; their folder stays for whoever wants to read the logs."""
        self._processes.stop()

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as the administrator and return what it printed.

        Raises:
            CommandFailed: with kubectl's own words in `stderr`.
        """
        program = self._binaries.path("kubectl")
        return run(program, "--kubeconfig", self.kubeconfig, *args, input=input, timeout=timeout)

    def helm(self, *args: str, timeout: float = 300) -> str:
        """Run Helm as the administrator and return what it printed.

        Raises:
            CommandFailed: with Helm's own words in `stderr`.
        """
        program = self._binaries.path("helm")
        return run(program, "--kubeconfig", self.kubeconfig, *args, timeout=timeout)

    def service_account_kubeconfig(self, name: str, *, namespace: str = "default", seconds: int = 3600) -> Path:
        """Return a kubeconfig with a token of a service account, for tests of what its roles allow.

        Raises:
            ApiError: there is no such service account.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.api.request("POST", path, {"spec": {"expirationSeconds": seconds}})
        return write_kubeconfig(
            self.state_dir / "kubeconfigs" / f"{namespace}-{name}",
            server=self.url,
            ca_file=self.ca_file,
            user=f"system:serviceaccount:{namespace}:{name}",
            token=answer["status"]["token"],
            namespace=namespace,
        )

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """Make a namespace, ready for pods, and have it deleted afterwards, without waiting for that."""
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            wait_until(
                lambda: self._has_account(name),
                what=f"the service account `default` in {name}",
                timeout=30,
            )
            yield name
        finally:
            self.api.request("DELETE", f"/api/v1/namespaces/{name}")

    def program_kubeconfig(self, user: str) -> Path:
        """Return the kubeconfig of one of the cluster's own programs, such as `system:kube-scheduler`."""
        return write_kubeconfig(
            self.state_dir / "kubeconfigs" / user.replace(":", "-"),
            server=self.url,
            ca_file=self.ca_file,
            user=user,
            token=self._tokens[user],
        )

    def check(self) -> None:
        """Raise ComponentFailed if one of the programs has ended."""
        self._processes.check()

    def _ports(self) -> Sequence[int]:
        if self.placement.prefix:
            return (2379, 2380, 6443)  # in a network namespace of its own every port is free
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind((self.placement.address, 0))
            return [int(each.getsockname()[1]) for each in sockets]

    def _write_tokens(self) -> None:
        rows = [f'{self._tokens[user]},{user},{user},"{group}"' for user, group in _USERS.items()]
        path = self.state_dir / "pki" / "tokens.csv"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(rows) + "\n")

    def _start_etcd(self, program: Path, client: int, peer: int) -> Component:
        return self._processes.start(
            "etcd",
            [
                program,
                "--data-dir", self.state_dir / "etcd",
                "--listen-client-urls", f"http://127.0.0.1:{client}",
                "--advertise-client-urls", f"http://127.0.0.1:{client}",
                "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"default=http://127.0.0.1:{peer}",
                "--unsafe-no-fsync",  # a test's data need not survive a power cut
                "--log-level", "warn",
            ],
            prefix=self.placement.prefix,
        )  # fmt: skip

    def _start_apiserver(self, program: Path, etcd: int, port: int) -> Component:
        here = self.placement
        argv: list[str | Path] = [
            program,
            "--etcd-servers", f"http://127.0.0.1:{etcd}",
            "--bind-address", here.address,
            "--secure-port", str(port),
            "--advertise-address", here.address,
            "--endpoint-reconciler-type", "master-count" if here.reachable_by_pods else "none",
            "--tls-cert-file", self._pki.certificate("apiserver"),
            "--tls-private-key-file", self._pki.key("apiserver"),
            "--kubelet-client-certificate", self._pki.certificate("kubelet-client"),
            "--kubelet-client-key", self._pki.key("kubelet-client"),
            "--kubelet-certificate-authority", self._pki.certificate("ca"),
            "--kubelet-preferred-address-types", "InternalIP",
            "--token-auth-file", self.state_dir / "pki" / "tokens.csv",
            "--authorization-mode", "Node,RBAC",
            "--service-cluster-ip-range", here.service_cidr,
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file", self._pki.public_key("service-accounts"),
            "--service-account-signing-key-file", self._pki.key("service-accounts"),
            "--allow-privileged",
            "--profiling=false",
        ]  # fmt: skip
        if self.audit_log is not None:
            policy = self.state_dir / "audit-policy.yaml"
            policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n")
            argv += ["--audit-policy-file", policy, "--audit-log-path", self.audit_log, "--audit-log-maxsize", "4096"]
        return self._processes.start("kube-apiserver", argv, prefix=here.prefix)

    def _start_manager(self, program: Path) -> Component:
        return self._processes.start(
            "kube-controller-manager",
            [
                program,
                "--kubeconfig", self.program_kubeconfig("system:kube-controller-manager"),
                "--use-service-account-credentials",
                "--service-account-private-key-file", self._pki.key("service-accounts"),
                "--root-ca-file", self.ca_file,
                "--leader-elect=false",
                "--kube-api-qps", "500", "--kube-api-burst", "1000",  # each controller asks for a token at the start
                "--secure-port", "0",
                "--profiling=false",
            ],
            prefix=self.placement.prefix,
        )  # fmt: skip

    def _ready(self) -> bool:
        self._processes.check()
        try:
            return bool(self.api.request("GET", "/readyz", timeout=5) == "ok")
        except ApiError:
            return False

    def _has_account(self, namespace: str) -> bool:
        self._processes.check()
        try:
            self.api.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default", timeout=5)
        except ApiError:
            return False
        return True
