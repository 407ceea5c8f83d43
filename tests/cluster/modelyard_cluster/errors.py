"""What can go wrong while bringing up a cluster, by what the reader has to do about it.

ClusterError
├── MissingPrerequisite   something is not installed or not allowed here: a test may skip
├── BuildFailed           a program did not compile
├── ComponentFailed       a program of the cluster ended or is unwell: its log says why
├── NotReady              something took longer than its limit
└── CommandFailed         a command (kubectl, ctr, buildah ...) answered with an error
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = [
    "BuildFailed",
    "ClusterError",
    "CommandFailed",
    "ComponentFailed",
    "MissingPrerequisite",
    "NotReady",
]


class ClusterError(Exception):
    """Any failure of the test cluster; its text says what to do."""


class MissingPrerequisite(ClusterError, RuntimeError):
    """This machine lacks something that the cluster needs; no fault of the code under test."""


class BuildFailed(ClusterError, RuntimeError):
    """A program could not be built from its Go module."""


class ComponentFailed(ClusterError, RuntimeError):
    """A program of the cluster ended before its time."""


class NotReady(ClusterError, TimeoutError):
    """Something did not happen within its time limit."""


class CommandFailed(ClusterError, RuntimeError):
    """A command ended with an error; `stderr` and `stdout` hold what it said."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        said = (stderr.strip() or stdout.strip() or "(it said nothing)")[-4000:]
        super().__init__(f"{shlex.join(argv)[:500]}: exit status {returncode}\n{said}")
