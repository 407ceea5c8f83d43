"""The programs that a cluster consists of: which there are, and which versions go together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["CONTROL_PLANE", "KUBERNETES", "NODE", "PROGRAMS", "Program", "version_of"]

KUBERNETES: Final = "1.37.2"
"""What binaries/go.mod pins; stamped into the programs, which otherwise call themselves v0.0.0."""


@dataclass(frozen=True)
class Program:
    """One program and how to tell its version."""

    name: str
    package: str
    """Go package, within the module in `binaries/`."""
    asks: tuple[str, ...]
    """Arguments that make it print its version; none for what is ours and so is never looked for."""
    wanted: str
    """The beginning of the versions that go with the rest, such as "1.37."."""
    module: str = ""
    """The folder in `binaries/` whose go.mod pins the program; the module of `binaries/` itself by default."""


def _kubernetes(name: str, *asks: str) -> Program:
    minor = KUBERNETES.rsplit(".", 1)[0] + "."
    return Program(name, f"k8s.io/kubernetes/cmd/{name}", asks or ("--version",), minor)


PROGRAMS: Final[dict[str, Program]] = {
    program.name: program
    for program in (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kubectl", "version", "--client"),
        Program("etcd", "go.etcd.io/etcd/server/v3", ("--version",), "3."),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Program("coredns", "./coredns", ("-version",), "1."),
        Program("pause", "./pause", (), ""),
        Program("helm", "helm.sh/helm/v4/cmd/helm", ("version", "--short"), "4."),
        Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", ("--version",), "0.8.", "kwok"),
    )
}

CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE: Final = ("kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause")


def version_of(output: str) -> str | None:
    """Find the version in what a program printed about itself."""
    found = re.search(r"\bv?(\d+\.\d+\.\d+)", output)
    return found.group(1) if found else None
