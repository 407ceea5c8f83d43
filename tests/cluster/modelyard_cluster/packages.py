"""What a node and the building of images take from Debian, and which of it is missing here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import CommandFailed, MissingPrerequisite
from .run import Report, environment, run, say

__all__ = ["CNI_FOLDERS", "IMAGE_PACKAGES", "NODE_PACKAGES", "Package", "cni_folder", "install", "missing", "require"]

CNI_FOLDERS: Final = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


@dataclass(frozen=True)
class Package:
    """A Debian package and the commands by which one tells that it, or an equal, is there."""

    name: str
    commands: tuple[str, ...]
    why: str


CONTROL_PLANE_PACKAGES: Final = (
    Package("openssl", ("openssl",), "makes the cluster's keys"),
    Package("util-linux", ("setpriv", "unshare", "nsenter"), "ends programs with their starter; namespaces"),
)

NODE_PACKAGES: Final = (
    *CONTROL_PLANE_PACKAGES,
    Package("containerd", ("containerd", "ctr"), "runs containers for the kubelet"),
    Package("runc", ("runc",), "starts one container"),
    Package("containernetworking-plugins", (), "gives pods their network"),
    Package("iproute2", ("ip",), "connects the node"),
    Package("nftables", ("nft",), "kube-proxy writes Services into it"),
    Package("iptables", ("iptables",), "for pods with a hostPort"),
)

IMAGE_PACKAGES: Final = (
    Package("buildah", ("buildah",), "builds images without a daemon"),
    Package("debootstrap", ("debootstrap",), "makes the base image"),
)


def cni_folder() -> Path | None:
    """Return the folder with the network plugins, if there is one."""
    for folder in CNI_FOLDERS:
        if all((Path(folder) / plugin).exists() for plugin in ("ptp", "host-local", "portmap")):
            return Path(folder)
    return None


def _is_there(package: Package) -> bool:
    if package.name == "containernetworking-plugins":
        return cni_folder() is not None
    places = environment()["PATH"]
    return all(shutil.which(command, path=places) for command in package.commands)


def missing(packages: Iterable[Package]) -> list[Package]:
    """Return those whose commands are not here."""
    return [package for package in packages if not _is_there(package)]


def require(packages: Iterable[Package]) -> None:
    """Raise MissingPrerequisite, naming the command that helps, unless all are here."""
    if lacking := missing(packages):
        names = " ".join(package.name for package in lacking)
        raise MissingPrerequisite(
            f"not installed: {names}. As root: `scripts/cluster install`, or `apt-get install --no-install-recommends "
            f"{names}`"
        )


def install(packages: Iterable[Package], env: Mapping[str, str], report: Report = say) -> None:
    """Install what is missing with apt-get, if this is root on Debian or the like.

    Raises:
        MissingPrerequisite: this is not root, or there is no apt-get, or it does not know a package.
    """
    lacking = missing(packages)
    if not lacking:
        return
    names = [package.name for package in lacking]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        require(packages)
    report(f"installing {' '.join(names)}")
    quiet = {**env, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", env=quiet, timeout=300)
        run("apt-get", "install", "--yes", "--no-install-recommends", *names, env=quiet, timeout=900)
    except CommandFailed as error:
        raise MissingPrerequisite(f"apt-get could not install {' '.join(names)}: {error}") from error
    require(packages)
