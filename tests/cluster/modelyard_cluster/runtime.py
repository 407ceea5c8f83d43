"""containerd inside the node: its configuration, the pods' network and the image that holds a pod open."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import sys
from pathlib import Path

from . import runc_wrapper
from .archive import layer_of_files, write_image
from .errors import CommandFailed, MissingPrerequisite
from .packages import cni_folder
from .run import wait_until
from .sandbox import Sandbox

__all__ = ["SOCKET", "ContainerRuntime"]

SOCKET = "/run/containerd/containerd.sock"
"""In the node's own /run: no two nodes meet there, and the path stays short enough for a socket."""

_PAUSE = "localhost/modelyard-pause:1"

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"""

# Only these commands describe something that is to be edited; the others need not wait for Python.
_WRAPPER = """\
#!/bin/sh
for word in "$@"; do
    case $word in create | run | exec) exec {edit} "$@" ;; esac
done
exec {runc} "$@"
"""


class ContainerRuntime:
    """Starts containerd in a sandbox and puts images into it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._folder = sandbox.state_dir / "containerd"

    def start(self, pause: Path) -> None:
        """Start containerd and wait until it answers.

        Args:
            pause: the static program that the pods' first container runs.
        """
        plugins = cni_folder()
        if plugins is None:
            raise MissingPrerequisite("no CNI plugins here: `scripts/cluster packages` says what to install")
        (self._folder / "cni").mkdir(parents=True, exist_ok=True)
        config = self._folder / "config.toml"
        config.write_text(
            _CONFIG.format(folder=self._folder, socket=SOCKET, pause=_PAUSE, plugins=plugins, runc=self._runc())
        )
        self._write_network()
        containerd = self._sandbox.start_inside("containerd", ["containerd", "--config", config])

        def answers() -> bool:
            containerd.check()
            try:
                self.ctr("version", timeout=5)
            except CommandFailed:
                return False
            return True

        wait_until(answers, what="containerd", timeout=30, explain=containerd.explain)
        layer, image = self._folder / "pause-layer.tar", self._folder / "pause.tar"
        layer_of_files(layer, {"/pause": pause})
        write_image(image, _PAUSE, layer, machine=platform.machine(), entrypoint=["/pause"])
        self.import_image(image)

    def import_image(self, archive: Path) -> None:
        """Put the image of a `docker-archive` or OCI tar where the kubelet finds it."""
        self.ctr("images", "import", str(archive.absolute()), timeout=300)

    def ctr(self, *arguments: str, timeout: float = 120) -> str:
        """Run containerd's own command line in the namespace that the kubelet uses."""
        return self._sandbox.run("ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments, timeout=timeout)

    def _write_network(self) -> None:
        # Routed (ptp) and not bridged: whatever pods send each other passes the node's firewall tables, where Services
        # live, with no need for the kernel module that shows bridged traffic to them.
        network = self._sandbox.network
        plugins = [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(self._folder / "addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        (self._folder / "cni" / "10-modelyard.conflist").write_text(
            json.dumps({"cniVersion": "0.4.0", "name": "modelyard", "plugins": plugins})
        )

    def _runc(self) -> Path:
        """Return the runc that containerd is to call."""
        real = shutil.which("runc", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/sbin:/bin")
        if real is None:
            raise MissingPrerequisite("runc is not installed: `scripts/cluster packages` says what to do")
        wrapper = self._folder / "runc"
        rights = "free" if _may_lower_oom_score() else "limited"
        group = self._sandbox.network.link
        words = (sys.executable, "-I", "-S", runc_wrapper.__file__, group, rights, real)
        wrapper.write_text(_WRAPPER.format(edit=shlex.join(words), runc=shlex.quote(real)))
        wrapper.chmod(0o755)
        return wrapper


def _may_lower_oom_score() -> bool:
    """Tell whether this process's bounding set has CAP_SYS_RESOURCE (bit 24)."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found) and bool(int(found.group(1), 16) >> 24 & 1) if found else True
