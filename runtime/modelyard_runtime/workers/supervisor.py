"""The process above the workers of one server: it keeps their ports, starts them, passes signals on, and counts them.

Workers are fresh interpreters, not forks: the thread pools of numerical libraries and gRPC do not survive a fork. The
supervisor serves nothing, and imports nothing of what serves: it stays small.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.contract import Env, Failure, FailureReason, parse_termination_message
from modelyard_runtime.dataplane.cpus import available_cpus, limit_thread_pools
from modelyard_runtime.errors import StartupFailure
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.settings import Settings
from modelyard_runtime.telemetry.log import set_up_logging
from modelyard_runtime.transport.grpc import grpc_installed
from modelyard_runtime.transport.sockets import BACKLOG, grpc_taken, http_taken, open_listener, reserve
from modelyard_runtime.workers.shared_state import SharedState
from modelyard_runtime.workers.worker import Worker, write_models

__all__ = ["supervise"]

_logger = logging.getLogger("modelyard")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
_TURN_SECONDS = 1.0
_SILENT_TURNS = 30
"""A worker whose event loop stands still for as long is killed: the kubelet's liveness probe may meet another one."""
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_GIVE_UP_SECONDS = 5.0
"""What is left to the other workers once one of them could not come up."""


@dataclass
class _Slot:
    """A worker's place: who is in it, or when the next one comes."""

    pid: int = 0
    """0: nobody."""
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    """In a row."""
    beats: float = 0.0
    silent: int = 0
    """Turns in which its event loop did not turn."""


def supervise(
    settings: Settings,
    environ: Mapping[str, str],
    command: Sequence[str],
    *,
    prepare: Callable[[Path], tuple[list[dict[str, Any]], bool]] | None = None,
) -> int:
    """Run `settings.workers` workers until SIGTERM or Ctrl-C, and return the exit code.

    It is 0 after a drain; where a worker could not come up, it is that worker's own, and so is the termination
    message. A worker that ends later, unasked, is started again.

    Args:
        settings: the server's.
        environ: the variables of the workers, from which they read the same settings.
        command: what starts a worker; it finds `Worker.from_env`.
        prepare: given a private folder, fetches into it what the workers shall serve, and returns it as
            `write_models` takes it. Without it, they serve what was fetched into `settings.model_dir`. May raise
            StartupFailure.
    """
    set_up_logging(settings.log_format, settings.log_level)
    for number in _PASSED_ON:
        signal.signal(number, lambda *_: sys.exit(0))  # until there are workers; nothing is left behind
    try:
        with tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True) as folder:
            if prepare is not None:
                models, watch = prepare(Path(folder))
                write_models(Path(folder), models, watch=watch)
            with contextlib.ExitStack() as kept:
                listener = kept.enter_context(_listener(settings))
                variables = {**environ, Env.PORT.value: str(listener.getsockname()[1]), **_grpc_port(settings, kept)}
                _lock(folder, kept)
                return _Supervisor(settings, variables, command, Path(folder), listener).run()
    except StartupFailure as exc:
        write_termination_message(exc.failure, settings.termination_log)
        _logger.error("%s: %s", exc.reason.value, exc.message)  # noqa: TRY400 -- the user's error, not ours: no traceback
        return 1


def _lock(folder: str, kept: contextlib.ExitStack) -> None:
    """Lock the folder: what cleans temporary folders up on old machines leaves alone those that are locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    kept.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _listener(settings: Settings) -> socket.socket:
    """Return the socket on which all workers listen, which they inherit. Raises LoadFailed.

    One queue for all: a worker that stands still holds no connection that another could take.
    """
    try:
        listener = open_listener(settings.host, settings.port)
        listener.listen(BACKLOG)  # at once: before that, another server could have the port as well
    except OSError as exc:
        raise http_taken(settings.host, settings.port, exc) from None
    listener.set_inheritable(True)
    return listener


def _grpc_port(settings: Settings, kept: contextlib.ExitStack) -> dict[str, str]:
    """Keep gRPC's port, which its library can't share but by SO_REUSEPORT, for as long as `kept` lives.

    Returns the variable that names it. Raises LoadFailed.
    """
    if not grpc_installed():
        return {}
    try:
        keeper = kept.enter_context(reserve(settings.host, settings.grpc_port))
    except OSError:
        raise grpc_taken(settings.host, settings.grpc_port) from None
    port = str(keeper.getsockname()[1])
    if not settings.grpc_port:
        _logger.info("gRPC on port %s", port)
    return {Env.GRPC_PORT.value: port}


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        command: Sequence[str],
        folder: Path,
        listener: socket.socket,
    ) -> None:
        self._listener = listener
        self._termination_log = settings.termination_log
        self._environ = dict(environ)
        limit_thread_pools(self._environ, available_cpus(settings.workers))
        self._command = list(command)
        self._folder = folder
        self._state = SharedState.create(folder, settings.workers)
        self._slots = [_Slot() for _ in range(settings.workers)]
        self._stopping = False
        self._give_up: float | None = None
        """When the others are killed, after one could not come up."""
        self._code = 0

    def run(self) -> int:
        # Blocked and waited for, signals come one after the other, between two steps and never within one.
        signals = {*_PASSED_ON, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            while not self._stopping or any(slot.pid for slot in self._slots):
                self._start_those_due()
                received = signal.sigtimedwait(signals, _TURN_SECONDS)
                if received is None:
                    self._look_after()
                elif received.si_signo == signal.SIGCHLD:
                    self._reap()
                else:
                    self._stop(signal.Signals(received.si_signo))
        finally:
            for slot in self._slots:
                _kill(slot.pid, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._code

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.pid or self._stopping or slot.due > now:
                continue
            worker = Worker(
                folder=str(self._folder),
                index=index,
                workers=len(self._slots),
                supervisor=os.getpid(),
                listener=self._listener.fileno(),
                returning=self._state.complete,
            )
            own = {Env.TERMINATION_LOG.value: str(Worker.failure_file(self._folder, index)), **worker.to_env()}
            # In a process group of its own: Ctrl-C in a terminal is for the supervisor, which passes it on, once.
            slot.pid = os.posix_spawn(
                self._command[0], self._command, {**self._environ, **own}, setpgroup=0, setsigmask=()
            )
            slot.started, slot.silent = now, 0

    def _look_after(self) -> None:
        """Kill workers that stand still, or that take too long to leave."""
        for index, slot in enumerate(self._slots):
            beats = self._state.beats(index)
            slot.silent = 0 if beats != slot.beats or not self._state.is_ready(index) else slot.silent + 1
            slot.beats = beats
            if slot.silent == _SILENT_TURNS:
                _logger.error("worker %d stands still for %d s; it is killed", index, _SILENT_TURNS)
                _kill(slot.pid, signal.SIGKILL)
            if self._give_up is not None and time.monotonic() >= self._give_up:
                _kill(slot.pid, signal.SIGKILL)

    def _stop(self, passed_on: signal.Signals) -> None:
        self._stopping = True
        self._state.end()
        for slot in self._slots:
            _kill(slot.pid, passed_on)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                # As a container's first process we also get children that others left behind.
                for index, slot in enumerate(self._slots):
                    if slot.pid == pid:
                        self._ended(index, slot, os.waitstatus_to_exitcode(status))

    def _ended(self, index: int, slot: _Slot, code: int) -> None:
        slot.pid = 0
        self._state.set_ready(index, ready=False)
        if self._stopping:
            # A worker that dies of the signal that it was to take had not come far enough to take it.
            if -code not in _PASSED_ON:
                self._code = self._code or _exit_code(code)
        elif code != 0 and not self._state.complete:
            self._fail(index, code)
        else:
            self._again(index, slot, code)

    def _fail(self, index: int, code: int) -> None:
        """End with the failure of a worker that could not come up, as a server of one process ends."""
        self._code = _exit_code(code)
        failure = self._failure_of(index, code)
        write_termination_message(failure, self._termination_log)
        _logger.error("%s: %s", failure.reason, failure.message)
        self._give_up = time.monotonic() + _GIVE_UP_SECONDS
        self._stop(signal.SIGINT)

    def _failure_of(self, index: int, code: int) -> Failure:
        with contextlib.suppress(OSError):
            left = parse_termination_message(Worker.failure_file(self._folder, index).read_text(encoding="utf-8"))
            if isinstance(left, Failure):
                return left
        how = _how(code)
        if -code == signal.SIGKILL:
            message = f"a worker {how} while it loaded, most likely for its memory; raise spec.resources.limits.memory"
            return Failure(FailureReason.OUT_OF_MEMORY.value, message)
        return Failure(FailureReason.LOAD_FAILED.value, f"a worker {how} while it loaded; the log says more")

    def _again(self, index: int, slot: _Slot, code: int) -> None:
        now = time.monotonic()
        if now - slot.started >= _LONGEST_WAIT:
            slot.failures = 0
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (slot.failures - 1)) if slot.failures else 0.0
        slot.failures = min(slot.failures + 1, 32)
        slot.due = now + wait
        again = f"again in {wait:g} s" if wait else "again"
        _logger.error("worker %d %s; it is started %s", index, _how(code), again)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _kill(pid: int, number: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
