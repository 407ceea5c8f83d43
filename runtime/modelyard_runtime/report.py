"""Termination messages: the last words of a container, which Kubernetes shows in the pod's status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

__all__ = ["write_termination_message"]


class Message(Protocol):
    """A Failure or a FetchReport of the contract."""

    def to_json(self) -> str:
        """Return the message as one JSON object."""


def write_termination_message(message: Message, path: Path) -> None:
    """Write `message` to `path`. Outside a pod the file can't be written: that is no reason to fail."""
    try:
        # /dev/termination-log is a bind-mounted file: it can be written to, not replaced.
        path.write_text(message.to_json(), encoding="utf-8")
    except OSError as exc:
        if path.exists():
            print(f"modelyard: no termination message at {path}: {exc.strerror}", file=sys.stderr)
