"""One way to run a command, to wait for something, and to tell the user what is going on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import CommandFailed, MissingPrerequisite, NotReady

__all__ = ["Report", "environment", "run", "say", "tail", "wait_until"]

Report = Callable[[str], None]


def say(line: str) -> None:
    """Print one line of progress, at once and apart from a command's own output."""
    print(line, file=sys.stderr, flush=True)


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment (by default this process's) whose PATH has the folders of root's commands.

    containerd, nft and debootstrap live there, and the PATH of a CI job or of sudo may be without.
    """
    result = dict(os.environ if env is None else env)
    folders = result.get("PATH", os.defpath).split(":")
    folders += [folder for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin") if folder not in folders]
    result["PATH"] = ":".join(folders)
    return result


def run(
    *argv: str | Path,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        CommandFailed: it ended with an error.
        NotReady: it took longer than `timeout` seconds.
        MissingPrerequisite: there is no such command here.
    """
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(env),
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise MissingPrerequisite(
            f"{command[0]} is not installed: `scripts/cluster packages` says what to do"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NotReady(f"{' '.join(command)[:300]} did not end within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def tail(path: Path, lines: int = 25) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 20_000))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


def wait_until(
    check: Callable[[], bool],
    *,
    what: str,
    timeout: float,
    interval: float = 0.05,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Call `check` until it returns True.

    Args:
        check: may raise to give up early, when waiting on is of no use.
        what: ends the sentence "waited 10 s for ...".
        timeout: seconds.
        interval: seconds between two calls.
        explain: adds to the message of NotReady, such as the tail of a log.
    """
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise NotReady(f"waited {timeout:.0f} s for {what}, in vain. {explain()}".rstrip())
        time.sleep(interval)
