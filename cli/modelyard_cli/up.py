"""`modelyard local up`: runs an installation in this process, or starts one in the background."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelyard_local.client import Client
from modelyard_local.errors import LocalError, NotRunning
from modelyard_local.installation import Options, run_installation
from modelyard_local.state import StateFolder

from modelyard_cli.output import as_json

__all__ = ["up"]

_START_SECONDS = 60.0


def up(options: argparse.Namespace, state: StateFolder) -> int:
    """Run until told to stop; with `--detach`, return as soon as the installation answers."""
    claims = dict(_claim(text) for text in options.claim)
    state.make()
    if options.detach:
        return _detach(options, state, claims)
    handler = logging.FileHandler(state.operator_log)
    logging.basicConfig(
        handlers=[handler], level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(_foreground(Options(state.root, claims)))
    except LocalError:
        raise
    except Exception:  # the last resort: a person gets a line, and the file gets the traceback
        logging.getLogger("modelyard.local").exception("up ended")
        raise LocalError(
            f"modelyard local ended by a fault of its own: the details are in {state.operator_log}"
        ) from None
    return 0


async def _foreground(options: Options) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, stop)
    await run_installation(options, lambda line: print(line, flush=True), stop)


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():  # asked twice: the reaper ends what is left
        os._exit(130)
    stop.set()


def _claim(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    path = Path(folder).absolute()
    if not name or not folder:
        raise LocalError(f"--claim {text}: write NAME=FOLDER")
    if not path.is_dir():
        raise LocalError(f"--claim {text}: there is no folder {path}")
    return name, path


def _detach(options: argparse.Namespace, state: StateFolder, claims: dict[str, Path]) -> int:
    command = [sys.executable, "-m", "modelyard_cli.main", "local", "up", "--state", str(state.root)]
    for name, folder in claims.items():
        command += ["--claim", f"{name}={folder}"]
    with state.log.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    client = Client(state.socket)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            lines = state.log.read_text().strip().splitlines() or ["it said nothing"]
            raise LocalError(lines[-1].removeprefix("error: "))
        try:
            answering = client.get("/status")["pid"]
        except NotRunning:
            time.sleep(0.05)
            continue
        if answering == process.pid:
            answer = {"pid": process.pid, "state": str(state.root), "log": str(state.log)}
            line = f"modelyard local is up (process {process.pid}); progress in {state.log}"
            print(as_json(answer) if options.output == "json" else line)
            return 0
        time.sleep(0.05)  # an earlier one answers: ours will say so and end
    raise LocalError(f"modelyard local did not start within {_START_SECONDS:g} s: see {state.log}")
