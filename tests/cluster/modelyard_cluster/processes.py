"""The programs of a cluster as processes that are started, recorded, watched and ended by their ids.

Each runs in a session of its own, and its id and start time go into a state file before anything else happens, so that
`down` can end what a killed starter left behind without ever ending a stranger that was given the same id.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import ComponentFailed
from .run import environment, tail, wait_until

__all__ = ["Component", "Processes", "Recorded", "end_recorded", "is_running", "read_recorded", "start_time"]

_FILE = "processes.json"


@dataclass(frozen=True)
class Recorded:
    """A process as the state file knows it."""

    name: str
    pid: int
    started: int
    """Clock ticks after boot, field 22 of /proc/PID/stat: tells a process from a later one with the same id."""
    boot: str


@dataclass(frozen=True)
class Component:
    """A running program and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise ComponentFailed, with the end of the log, if the program is gone."""
        status = self.process.poll()
        if status is not None:
            raise ComponentFailed(f"{self.name} ended with status {status}; the end of {self.log}:\n{tail(self.log)}")

    def explain(self) -> str:
        """Say where the log is and how it ends."""
        return f"The end of {self.log}:\n{tail(self.log)}"


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None if there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_running(recorded: Recorded) -> bool:
    """Tell whether the very process that was recorded is still there."""
    return recorded.boot == _boot() and start_time(recorded.pid) == recorded.started


def read_recorded(state_dir: Path) -> list[Recorded]:
    """Return what the state file of a cluster lists, whether it still runs or not."""
    try:
        entries = json.loads((state_dir / _FILE).read_text())
    except FileNotFoundError:
        return []
    return [Recorded(**entry) for entry in entries]


def end_recorded(state_dir: Path) -> list[str]:
    """End what a state file lists and still runs; return the names of what did run."""
    running = [recorded for recorded in read_recorded(state_dir) if is_running(recorded)]
    for recorded in running:
        _kill(recorded)
    _wait_for_the_end_of(running)
    (state_dir / _FILE).unlink(missing_ok=True)
    return [recorded.name for recorded in running]


def _kill(recorded: Recorded) -> None:
    # SIGKILL and not SIGTERM: the state is thrown away with the cluster, so a tidy end would only take seconds.
    if is_running(recorded):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(recorded.pid) == recorded.pid:
                os.killpg(recorded.pid, signal.SIGKILL)
            else:
                os.kill(recorded.pid, signal.SIGKILL)


def _wait_for_the_end_of(processes: Sequence[Recorded]) -> None:
    wait_until(
        lambda: not any(is_running(recorded) for recorded in processes),
        what=f"{', '.join(recorded.name for recorded in processes)} to end after SIGKILL",
        timeout=15,
        interval=0.01,
    )


class Processes:
    """Starts programs and ends all that it started.

    Args:
        state_dir: holds the state file and `logs/`.
        tied: the programs die with the calling process, even if that is killed. For tests; a developer's cluster
            outlives the command that starts it.
    """

    def __init__(self, state_dir: Path, *, tied: bool) -> None:
        self.state_dir = state_dir
        self.tied = tied
        self._components: list[Component] = []
        self._recorded: list[Recorded] = []
        self._lock = threading.Lock()
        (state_dir / "logs").mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        prefix: Iterable[str] = (),
    ) -> Component:
        """Start a program with its output in `logs/NAME.log`.

        Args:
            name: for messages, the log and the state file.
            argv: the program and its arguments.
            env: added to this process's environment.
            prefix: a command that ends by executing `argv`, such as nsenter.
        """
        log = self.state_dir / "logs" / f"{name}.log"
        # PR_SET_PDEATHSIG through setpriv: it survives the exec, and needs no code between fork and exec here.
        tie = ["setpriv", "--pdeathsig", "KILL", "--"] if self.tied else []
        command = [*tie, *prefix, *(str(part) for part in argv)]
        with self._lock, log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.state_dir,
                env=environment({**os.environ, **(env or {})}),
                start_new_session=True,
            )
            component = Component(name, process, log)
            self._components.append(component)
            self._record(name, process.pid)
        return component

    def adopt(self, name: str, pid: int) -> None:
        """Have a process that a started one has started recorded, and ended with the others."""
        with self._lock:
            self._record(name, pid)

    def _record(self, name: str, pid: int) -> None:
        started = start_time(pid)
        if started is not None:
            self._recorded.append(Recorded(name, pid, started, _boot()))
            self._write()

    def _write(self) -> None:
        new = self.state_dir / f"{_FILE}.new"
        new.write_text(json.dumps([asdict(recorded) for recorded in self._recorded], indent=1))
        new.replace(self.state_dir / _FILE)

    def check(self) -> None:
        """Raise ComponentFailed if any program has ended."""
        for component in self._components:
            component.check()

    def stop(self) -> None:
        """End every program."""
        with self._lock:
            for recorded in self._recorded:
                _kill(recorded)
            for component in self._components:
                component.process.wait(15)
            _wait_for_the_end_of(self._recorded)
            self._components.clear()
            self._recorded.clear()
            (self.state_dir / _FILE).unlink(missing_ok=True)

    def forget(self) -> None:
        """Leave the programs running; the state file is what finds them again."""
        for component in self._components:
            # Popen warns of a child that still runs when it is collected; this one is meant to.
            component.process.returncode = 0
        self._components.clear()
