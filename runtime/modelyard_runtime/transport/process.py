"""The life of a server process: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import uvloop

from modelyard_runtime.application import Application
from modelyard_runtime.dataplane.catalog import Source, signature_of
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import LoadFailed, StartupFailure
from modelyard_runtime.http.drain import Checks, Drain, Phase
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.settings import Settings
from modelyard_runtime.telemetry.log import set_up_logging
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics
from modelyard_runtime.telemetry.totals import OwnTotals, Totals
from modelyard_runtime.telemetry.tracing import end_tracing, start_tracing
from modelyard_runtime.transport.grpc import start_grpc
from modelyard_runtime.transport.http_server import HttpServer
from modelyard_runtime.transport.limits import ConnectionLimits
from modelyard_runtime.transport.sockets import http_taken, open_listener

__all__ = ["serve"]

_logger = logging.getLogger("modelyard")
_LOOK_SECONDS = 0.02
"""How often a worker looks whether the others are ready."""


class WorkerProcess(Protocol):
    """This process as one of several that serve as one."""

    @property
    def index(self) -> int:
        """Which it is; 0 speaks for all."""

    @property
    def returning(self) -> bool:
        """Whether the others serve already: then this one takes connections only once it can answer."""

    @property
    def complete(self) -> bool:
        """Whether all have been ready together: true for good from then on."""

    @property
    def ending(self) -> bool:
        """Whether the server ends, and not this process alone."""

    @property
    def checks(self) -> Checks:
        """When a router last asked any of them for its health."""

    def set_ready(self) -> None:
        """Note that this process has its models ready."""

    def open_listener(self) -> socket.socket:
        """Return the socket on which all listen."""

    def totals(self, metrics: Metrics, statistics: Statistics) -> Totals:
        """Return the totals of all, of which these are this process' share."""


def serve(
    settings: Settings,
    sources: Sequence[Source] = (),
    *,
    watch: bool = False,
    on_ready: Callable[[str, Sequence[ServedModel]], None] = lambda url, served: None,
    worker: WorkerProcess | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code: 0 after a drain, 1 when the model did not come up.

    `sources` are what to serve; without any, what was fetched into `settings.model_dir`. With `watch`, local ones are
    loaded again when they change. `on_ready` is told the server's address and its models once all of them answer. Of a
    failure, the termination log holds the reason, and stderr a line. `worker` says which of several this process is.
    To be called in the main thread, which receives signals.
    """
    set_up_logging(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, sources or [_fetched(settings)], worker, watch=watch, on_ready=on_ready))
    except StartupFailure as exc:
        write_termination_message(exc.failure, settings.termination_log)
        if worker is not None and not worker.returning:
            return 1  # the supervisor says why, once
        _logger.error("%s: %s", exc.reason.value, exc.message)  # noqa: TRY400 -- the user's error, not ours: no traceback
        return 1
    except Exception as exc:
        # A bug of ours; the pod's status should say more than an exit code all the same.
        _logger.exception("the server failed")
        failure = LoadFailed(f"the server failed ({type(exc).__name__}: {exc}); its log says more, please report it")
        write_termination_message(failure.failure, settings.termination_log)
        return 1
    return 0


def _listener(settings: Settings) -> socket.socket:
    try:
        return open_listener(settings.host, settings.port)
    except OSError as exc:
        raise http_taken(settings.host, settings.port, exc) from None


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
    worker: WorkerProcess | None,
    *,
    watch: bool,
    on_ready: Callable[[str, Sequence[ServedModel]], None],
) -> None:
    listener = _listener(settings) if worker is None else worker.open_listener()
    drain = Drain(checks=None if worker is None else worker.checks)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain.on_terminate)
    loop.add_signal_handler(signal.SIGINT, drain.on_interrupt)
    app = Application(settings, drain=drain, totals=OwnTotals if worker is None else worker.totals)
    if worker is not None:
        app.registry.hold(lambda: worker.complete)
    service = sources[0].name if len(sources) == 1 else "modelyard"
    tracing = app.context.tracing = start_tracing(os.environ, service, speaks=_speaks(worker))
    for source in sources:
        app.registry.expect(source.name)
    server = HttpServer(
        app,
        listener,
        drain,
        drain_delay=settings.drain_delay,
        timeout=settings.timeout,
        limits=ConnectionLimits(max_age=settings.max_connection_age, stall_seconds=settings.timeout),
        inference_route=app.inference_route,
        listens_alone=lambda: worker is None or worker.ending,
    )

    async def answer() -> asyncio.Future[Any]:
        rpc = await start_grpc(app, drain, settings, tracing)
        return asyncio.gather(server.run_until_drained(), rpc.run_until_drained())

    # While others serve, a worker that comes back takes no connection before it can answer.
    waits = worker is not None and worker.returning
    serving: asyncio.Future[Any] | None = None
    watching: list[asyncio.Task[None]] = []
    before = [(source, signature_of(source)) for source in sources if watch]
    try:
        await app.totals.start()
        serving = None if waits else await answer()
        if await _load(app, sources, drain, listener, settings.workers if _speaks(worker) else 0):
            if not watch and settings.admin_token_file is None:
                # What is loaded stays until the end: collections need not go through it again and again, which would
                # hold requests up for milliseconds.
                gc.collect()
                gc.freeze()
            serving = serving or await answer()
            if worker is not None:
                await _wait_for_others(app, drain, worker)
            if worker is None or (worker.index == 0 and not waits and not drain.active):
                on_ready(_url(listener), app.registry.served())
            watching.append(asyncio.create_task(_watch_threads(app)))
            watching += [asyncio.create_task(app.catalog.watch(*watched)) for watched in before]
    except Exception:
        for source in sources:
            app.registry.fail(source.name)
        drain.on_interrupt()
        raise
    finally:
        if serving is not None:
            await serving
        for task in watching:
            task.cancel()
        await end_tracing(tracing)
        app.close()
        listener.close()


async def _watch_threads(app: Application) -> None:
    """Look after the compute threads every second; never ends."""
    while True:
        app.executor.watchdog.look()
        await asyncio.sleep(1)


async def _wait_for_others(app: Application, drain: Drain, worker: WorkerProcess) -> None:
    """Count as ready once all workers are, so that it does not matter which one a probe meets."""
    worker.set_ready()
    while not worker.complete and not await drain.wait_for(Phase.DRAINING, _LOOK_SECONDS):
        pass
    app.registry.release()


def _speaks(worker: WorkerProcess | None) -> bool:
    """Whether this process says what it serves: of several that start together, one is enough."""
    return worker is None or worker.index == 0 or worker.returning


async def _load(
    app: Application, sources: Sequence[Source], drain: Drain, listener: socket.socket, workers: int
) -> bool:
    """Load in a thread, while health is answered; a signal meanwhile ends the process without waiting for it.

    Returns whether all is loaded. The log says so of each model, and that there are so many workers; 0: it does not.
    """

    async def load_all() -> None:
        for source in sources:
            loaded = await app.catalog.load(source)
            if workers:
                _log_start(loaded.served, listener, loaded.seconds, workers)

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


def _log_start(served: ServedModel, listener: socket.socket, seconds: float, workers: int) -> None:
    compiled = served.model.compiled
    _logger.info(
        "serving %s (%s, version %s, %s) on %s/predict; runs as %s%s; loaded in %.3f s%s; docs at /docs",
        served.name,
        served.format,
        served.version,
        served.digest,
        _url(listener),
        compiled.form,
        f" ({compiled.reason})" if compiled.reason else "",
        seconds,
        f"; {workers} workers" if workers > 1 else "",
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
