"""Processes whose supervisor is killed, and ports that are taken."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from modelyard_local.addresses import AddressBlock, check_ports
from modelyard_local.errors import LocalError
from modelyard_local.process import start_process
from modelyard_local.proxy import ServicePorts
from modelyard_local.reaper import marked, sweep
from waiting import eventually

SUPERVISOR = r"""
import asyncio, pathlib, sys
from modelyard_local.process import start_process
from modelyard_local.reaper import MARK, start_reaper

GRANDCHILD = "import time; time.sleep(600)"
CHILD = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', %r], start_new_session=True); time.sleep(600)"
)

async def main(folder):
    if "--reaper" in sys.argv:
        start_reaper(str(folder))
    command = ["python", "-c", CHILD % GRANDCHILD]
    start_process(command, {}, folder=folder, log=folder / "log", mark={MARK: str(folder)})
    await asyncio.sleep(600)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def start(folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder), *flags])
    try:
        eventually(lambda: len(marked(str(folder))) == 2, what="child and grandchild run")
    except BaseException:
        process.kill()
        process.wait()
        sweep(str(folder))
        raise
    return process


def test_nobody_outlives_a_killed_supervisor(folder: Path) -> None:
    """Not even a grandchild in a session of its own."""
    process = start(folder, "--reaper")

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    eventually(lambda: not marked(str(folder)), what="all end")


def test_children_die_without_the_reaper_and_a_sweep_ends_the_rest(folder: Path) -> None:
    """The kernel ends the child; the grandchild is what the next `up` finds and ends."""
    process = start(folder)

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    eventually(lambda: len(marked(str(folder))) == 1, what="the child ends")

    assert sweep(str(folder)) == 1
    assert marked(str(folder)) == []


def test_a_port_that_is_taken_is_moved_for_services_and_named_for_pods() -> None:
    """Services can answer 8000 higher; pods have their ports as rendered, so somebody has to go."""
    block = AddressBlock.claim(None)
    with socket.socket() as holder:
        holder.bind((block.own, 0))
        holder.listen()
        port = holder.getsockname()[1]

        moved = ServicePorts(block.own).of(port)
        with pytest.raises(LocalError) as caught:
            check_ports(block.own, (port,))
    block.release()

    assert moved == (port + 8000) % 65536
    assert f"port {port} is taken on every address of this machine" in str(caught.value)


def test_variables_of_opentelemetry_reach_pods_and_others_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    names = "sorted(name for name in os.environ if name.startswith(('OTEL', 'AWS')))"

    async def run() -> int:
        command = ["python", "-c", f"import os; print({names})"]
        return await start_process(command, {}, folder=folder, log=folder / "log", mark={}).wait()

    assert asyncio.run(run()) == 0
    assert (folder / "log").read_text() == "['OTEL_EXPORTER_OTLP_ENDPOINT']\n"
