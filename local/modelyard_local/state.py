"""The state folder: what stands where, and the lock that one `up` holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from modelyard_local.errors import AlreadyRunning, LocalError

__all__ = ["StateFolder", "default_state"]

_LONGEST = 70  # Envoy's sockets are below it, and a socket's path has at most 107 bytes


def default_state(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_STATE_HOME/modelyard`, or `~/.local/state/modelyard`."""
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "modelyard"


class StateFolder:
    """Paths of one installation."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.database = self.root / "store.db"
        self.socket = self.root / "control.sock"
        self.pods = self.root / "pods"
        self.claims = self.root / "claims"
        self.secrets = self.root / "secrets"
        self.proxy = self.root / "proxy"
        self.log = self.root / "up.log"
        self.operator_log = self.root / "operator.log"
        self._lock = self.root / "lock"

    def make(self) -> None:
        """Make the folder, for this user alone. Raises LocalError."""
        if len(os.fsencode(self.root)) > _LONGEST:
            raise LocalError(f"the state folder's path is longer than {_LONGEST} bytes: give a shorter --state")
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.pods, self.claims, self.secrets, self.proxy):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LocalError(f"{self.root} cannot be made ({error.strerror}): give another --state") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; the kernel lets it go with the process. Raises AlreadyRunning."""
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise AlreadyRunning(
                    f"modelyard local runs on {self.root} already (process {lock.read().strip() or '?'}): "
                    "use it, stop it with `modelyard local down`, or give another --state"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
