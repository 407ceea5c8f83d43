"""`python -m modelyard_router`: the sidecar beside Envoy in a router pod."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from modelyard_runtime.contract import ROUTER_CONFIG_MOUNT, ROUTER_RUN_MOUNT, ROUTER_SIDECAR_PORT, Env

from modelyard_router.admin import Admin
from modelyard_router.apply import Applier, Timing
from modelyard_router.errors import EnvoyUnreachable, RouterError
from modelyard_router.files import RunFolder
from modelyard_router.server import create_app

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a pod's own address is not known before it runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sidecar until Envoy is gone after SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m modelyard_router", description=__doc__)
    parser.add_argument("--config-dir", type=Path, default=Path(ROUTER_CONFIG_MOUNT), help="the ConfigMap's folder")
    parser.add_argument("--run-dir", type=Path, default=Path(ROUTER_RUN_MOUNT), help="the folder shared with Envoy")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    host = os.environ.get(Env.HOST) or _ANY_ADDRESS
    try:
        asyncio.run(_serve(options.config_dir, options.run_dir, host, os.environ.get(Env.DNS)))
    except (RouterError, OSError) as error:
        print(f"the router's sidecar can't run: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: Path, run_dir: Path, host: str, resolver: str | None) -> None:
    run = RunFolder(run_dir)
    async with Admin(run.admin_socket) as admin:
        applier = Applier(
            config,
            run,
            admin,
            placeholders={"${MODELYARD_HOST}": host, "${MODELYARD_RUN}": str(run.path)},
            resolver=resolver,
            timing=Timing(),
        )
        runner = web.AppRunner(create_app(applier, admin), shutdown_timeout=1.0, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, ROUTER_SIDECAR_PORT).start()
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(applier.follow())
                await _until_dismissed(admin)
                following.cancel()
        finally:
            await runner.cleanup()


async def _until_dismissed(admin: Admin) -> None:
    """Return at a second SIGTERM, or after the first one once Envoy has gone: its drain still needs the sidecar."""
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def dismiss() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, dismiss)
    await first.wait()
    while not second.is_set():
        try:
            await admin.taken()
        except EnvoyUnreachable:
            return
        try:
            await asyncio.wait_for(second.wait(), 0.2)
        except TimeoutError:
            continue


if __name__ == "__main__":
    sys.exit(main())
