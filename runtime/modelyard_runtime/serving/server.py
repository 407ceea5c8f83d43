"""The life of a server process: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from typing import Any

import uvloop

from modelyard_runtime.errors import LoadFailed, StartupFailure
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.serving.app import RuntimeApp
from modelyard_runtime.serving.connection import ConnectionLimits
from modelyard_runtime.serving.drain import Drain, Phase
from modelyard_runtime.serving.http import HttpServer, open_listener
from modelyard_runtime.serving.loading import load_served
from modelyard_runtime.serving.registry import ServedModel
from modelyard_runtime.serving.workers import Workers
from modelyard_runtime.settings import Settings

__all__ = ["serve"]

_logger = logging.getLogger("modelyard")


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code: 0 after a drain, 1 when the model did not come up.

    Of a failure, the termination log holds the reason, and stderr a line. To be called in the main thread, which
    receives signals.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # What a client sends is no event of ours; what we do wrong is logged where it is caught.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except StartupFailure as exc:
        write_termination_message(exc.failure, settings.termination_log)
        _logger.error("%s: %s", exc.reason.value, exc.message)  # noqa: TRY400 -- the user's error, not ours: no traceback
        return 1
    except Exception as exc:
        # A bug of ours; the pod's status should say more than an exit code all the same.
        _logger.exception("the server failed")
        failure = LoadFailed(f"the server failed ({type(exc).__name__}: {exc}); its log says more, please report it")
        write_termination_message(failure.failure, settings.termination_log)
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    try:
        listener = open_listener(settings.host, settings.port)
    except OSError as exc:
        raise LoadFailed(
            f"can't listen on {settings.host}:{settings.port}: {exc.strerror or exc}; "
            "give another address in MODELYARD_HOST or port in MODELYARD_PORT"
        ) from None
    drain = Drain()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain.on_terminate)
    loop.add_signal_handler(signal.SIGINT, drain.on_interrupt)
    app = RuntimeApp(settings, drain=drain)
    app.registry.expect(settings.model_name)
    server = HttpServer(
        app,
        listener,
        drain,
        drain_delay=settings.drain_delay,
        timeout=settings.timeout,
        limits=ConnectionLimits(max_age=settings.max_connection_age),
    )
    serving = asyncio.create_task(server.run_until_drained())
    try:
        await _load(settings, app, drain, listener)
    except Exception:
        app.registry.fail(settings.model_name)
        drain.on_interrupt()
        raise
    finally:
        await serving
        app.compute.close()


async def _load(settings: Settings, app: RuntimeApp, drain: Drain, listener: socket.socket) -> None:
    """Load in a thread, while health is answered; a signal meanwhile ends the process without waiting for it."""
    workers = Workers(1, "load")
    loading = asyncio.wrap_future(workers.submit(lambda: load_served(settings)))
    workers.close()
    ending = asyncio.ensure_future(drain.wait_for(Phase.DRAINING))
    both: set[asyncio.Future[Any]] = {loading, ending}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            # Nobody was told that we serve: there is nothing to be patient for.
            drain.on_interrupt()
            loading.cancel()
            return
        served, seconds = loading.result()
    finally:
        ending.cancel()
    app.registry.activate(served)
    app.metrics.loaded(served.name, served.version, served.format, served.digest, seconds)
    _log_start(served, listener, seconds)


def _log_start(served: ServedModel, listener: socket.socket, seconds: float) -> None:
    host, port = listener.getsockname()[:2]
    _logger.info(
        "serving %s (%s, version %s, %s) on http://%s:%d/predict; loaded in %.3f s; docs at /docs",
        served.name,
        served.format,
        served.version,
        served.digest,
        f"[{host}]" if ":" in host else host,
        port,
        seconds,
    )
