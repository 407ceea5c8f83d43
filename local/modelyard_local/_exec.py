"""Becomes another program that the kernel kills as soon as its parent is gone.

Usage: python -I -S _exec.py PARENT_PID PROGRAM ARGUMENT...

A program of its own, because between fork and exec of a process with threads nothing but a few system calls is safe.
The kernel's "parent" is the thread that started this process: the supervisor starts all from its main thread. Standard
library only, and as little of it as possible: every container starts through here.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_CANNOT_RUN = 127


def main() -> None:
    """Ask the kernel for the signal, then exec."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the kernel knew that we care
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    main()
