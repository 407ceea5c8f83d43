"""The life of a server process: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from modelyard_runtime.errors import LoadFailed, StartupFailure
from modelyard_runtime.observe.log import set_up_logging
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.serving.app import RuntimeApp
from modelyard_runtime.serving.catalog import Source
from modelyard_runtime.serving.connection import ConnectionLimits
from modelyard_runtime.serving.drain import Drain, Phase
from modelyard_runtime.serving.http import HttpServer, open_listener
from modelyard_runtime.serving.registry import ServedModel
from modelyard_runtime.serving.rpc import start_rpc
from modelyard_runtime.settings import Settings

__all__ = ["serve"]

_logger = logging.getLogger("modelyard")


def serve(
    settings: Settings,
    sources: Sequence[Source] = (),
    *,
    watch: bool = False,
    on_ready: Callable[[str, Sequence[ServedModel]], None] = lambda url, served: None,
) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code: 0 after a drain, 1 when the model did not come up.

    `sources` are what to serve; without any, what was fetched into `settings.model_dir`. With `watch`, local ones are
    loaded again when they change. `on_ready` is told the server's address and its models once all of them answer. Of a
    failure, the termination log holds the reason, and stderr a line. To be called in the main thread, which
    receives signals.
    """
    set_up_logging(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, sources or [_fetched(settings)], watch=watch, on_ready=on_ready))
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


def _fetched(settings: Settings) -> Source:
    return Source(
        name=settings.model_name,
        uri=settings.model_uri,
        directory=settings.model_dir,
        format=settings.model_format,
        version=settings.model_version,
    )


async def _serve(
    settings: Settings,
    sources: Sequence[Source],
    *,
    watch: bool,
    on_ready: Callable[[str, Sequence[ServedModel]], None],
) -> None:
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
    for source in sources:
        app.registry.expect(source.name)
    server = HttpServer(
        app,
        listener,
        drain,
        drain_delay=settings.drain_delay,
        timeout=settings.timeout,
        limits=ConnectionLimits(max_age=settings.max_connection_age),
        direct=app.direct,
    )
    rpc = await start_rpc(app.parts, drain, settings)
    serving = asyncio.gather(server.run_until_drained(), rpc.run_until_drained())
    watching: list[asyncio.Task[None]] = []
    try:
        if await _load(app, sources, drain, listener):
            if not watch and settings.admin_token_file is None:
                # What is loaded stays until the end: collections need not go through it again and again, which would
                # hold requests up for milliseconds.
                gc.collect()
                gc.freeze()
            on_ready(_url(listener), app.registry.served())
            watching += [asyncio.create_task(app.catalog.watch(source)) for source in sources if watch]
    except Exception:
        for source in sources:
            app.registry.fail(source.name)
        drain.on_interrupt()
        raise
    finally:
        await serving
        for task in watching:
            task.cancel()
        app.close()


async def _load(app: RuntimeApp, sources: Sequence[Source], drain: Drain, listener: socket.socket) -> bool:
    """Load in a thread, while health is answered; a signal meanwhile ends the process without waiting for it.

    Returns whether all is loaded.
    """

    async def load_all() -> None:
        for source in sources:
            loaded = await app.catalog.load(source)
            _log_start(loaded.served, listener, loaded.seconds)

    loading = asyncio.create_task(load_all())
    ending = asyncio.ensure_future(drain.wait_for(Phase.DRAINING))
    both: set[asyncio.Future[Any]] = {loading, ending}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            # Nobody was told that we serve: there is nothing to be patient for.
            drain.on_interrupt()
            loading.cancel()
            return False
        loading.result()
    finally:
        ending.cancel()
    return True


def _log_start(served: ServedModel, listener: socket.socket, seconds: float) -> None:
    compiled = served.model.compiled
    _logger.info(
        "serving %s (%s, version %s, %s) on %s/predict; runs as %s%s; loaded in %.3f s; docs at /docs",
        served.name,
        served.format,
        served.version,
        served.digest,
        _url(listener),
        compiled.form,
        f" ({compiled.reason})" if compiled.reason else "",
        seconds,
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
