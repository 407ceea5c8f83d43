"""The reaper kills what an installation leaves behind: processes that the kernel's parent-death signal does not reach.

Every process of an installation carries a mark in its environment, which its own children inherit. The reaper waits
for the supervisor's end of a pipe to close, however that comes about, then kills every process with the mark.

Usage: python -I -S reaper.py MARK, with the pipe as standard input.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

__all__ = ["MARK", "marked", "start_reaper", "sweep"]

MARK = "MODELYARD_LOCAL_STATE"  # = the state folder
_SECONDS = 10.0


def marked(mark: str) -> list[int]:
    """Return the ids of the processes that carry this mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = file.read()
        except OSError:  # somebody else's, or gone
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry))
    return found


def sweep(mark: str) -> int:
    """Kill every process that carries this mark; return how many there were."""
    killed: set[int] = set()
    end = time.monotonic() + _SECONDS
    while (pids := marked(mark)) and time.monotonic() < end:  # again: one may have forked meanwhile
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(0.01)
    return len(killed)


def start_reaper(mark: str) -> subprocess.Popen[bytes]:
    """Start the reaper of this process. It ends by itself once its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal is not for the reaper
    )


def main() -> None:
    """Wait, then sweep."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
