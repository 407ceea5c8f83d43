"""Process 1 of the node's namespaces: prepares them, then reaps what is orphaned. Run as a script, not imported.

The node gets mount, network and process namespaces of its own, so that everything it mounts, every interface and
firewall table it makes and every process of every pod ends with this one process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

# The kubelet insists on these values and writes them if it finds others, but they are the whole machine's: it is shown
# files that hold what it wants.
KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# Folders that containerd, CNI and the kubelet write to wherever their state is said to be.
PRIVATE = ("/run", "/var/log", "/var/lib/cni")

MADE = "made-folders"
"""Lists those that the machine did not have, for `down` to remove."""


def main(state_dir: Path) -> None:
    """Set up the namespaces, say so in the file `ready`, and wait for children for ever."""
    # Shared among the node's own mount namespaces (pods see volumes that are mounted later), not with the machine's.
    command("mount", "--make-rshared", "/")
    for place in PRIVATE:
        if not Path(place).exists():
            Path(place).mkdir(parents=True)
            with (state_dir / MADE).open("a") as made:
                made.write(place + "\n")
        command("mount", "-t", "tmpfs", "-o", "mode=0755", "modelyard", place)
    shown = state_dir / "kernel"
    shown.mkdir(parents=True, exist_ok=True)
    for name, value in KERNEL.items():
        real = Path("/proc/sys", name)
        if real.exists() and real.read_text().strip() != value:
            fake = shown / name.replace("/", ".")
            fake.write_text(value + "\n")
            command("mount", "--bind", str(fake), str(real))
    command("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    (state_dir / "ready").touch()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        signal.sigwaitinfo({signal.SIGCHLD})


def command(*argv: str) -> None:
    """Run a command; its error output is this process's log."""
    subprocess.run(argv, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
