"""One container: a process that is started, probed, restarted with back-off, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from modelyard_operator.reconcile.conditions import timestamp

from modelyard_local.objects import Object
from modelyard_local.probes import HttpTarget, Probe, first_success, follow
from modelyard_local.process import Process, start_process

__all__ = ["Container", "Launch", "Timing"]

_MESSAGE_BYTES = 4096  # what Kubernetes keeps of a termination message
_LOG_TAIL_BYTES = 2048


@dataclass(frozen=True)
class Timing:
    """Seconds; shorter than a kubelet's, whose machines have more to do."""

    backoff_first: float = 1.0
    """The wait after the second failure in a row; the first is tried again at once. Doubled each time."""
    backoff_limit: float = 60.0
    backoff_reset: float = 60.0
    """A container that ran this long starts over with its back-off."""
    startup_interval: float = 0.2
    """Between two tries of a startup probe, and of a volume that is not there yet."""


@dataclass(frozen=True)
class Launch:
    """The settings with which a container's process is started."""

    command: list[str]
    environment: Callable[[], Mapping[str, str]]
    """Asked at every start, so that a Secret that was put right counts; raises OSError where there is none."""
    folder: Path
    log: Path
    termination_log: Path
    mark: Mapping[str, str]
    host: str
    """The pod's address: for probes and hooks."""
    grace: float
    """Seconds between SIGTERM and SIGKILL when a probe failed."""

    def logged(self) -> int:
        """Return the bytes in the log: where the next run's own lines begin."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.stat().st_size
        return 0

    def start(self) -> Process:
        """Start the process, its termination message empty."""
        self.termination_log.unlink(missing_ok=True)
        if not self.command:
            raise OSError("one machine runs no images: give the command in spec.container.command")
        return start_process(self.command, self.environment(), folder=self.folder, log=self.log, mark=self.mark)


@dataclass
class Container:
    """A container of a pod, and what its status says. `changed` is called after every change of that."""

    spec: Object
    timing: Timing
    now: Callable[[], datetime]
    changed: Callable[[], None]
    started: bool = False
    ready: bool = False
    restarts: int = 0
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "PodInitializing"}})
    last_state: Object = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()  # once, at any time: what depends on a sidecar is not held back by its restart
        self._running: asyncio.Task[None] | None = None
        self._launch: Launch | None = None

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    def status(self) -> Object:
        """Return the entry of containerStatuses."""
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }

    async def complete(self, launch: Launch) -> None:
        """Run an init container until it ends well; as often as that takes."""
        await self._run_repeatedly(launch, once=True)

    def keep_running(self, launch: Launch) -> None:
        """Run a container and start it again whenever it ends, until `stop`."""
        self._running = asyncio.create_task(self._run_repeatedly(launch, once=False), name=f"container {self.name}")

    async def wait_until_started(self) -> None:
        """Wait until a sidecar's startup probe is green."""
        await self._started.wait()

    async def stop(self, deadline: float) -> None:
        """Run the preStop hook, ask the process to end, and kill it at `deadline` (in the loop's time)."""
        self._stopping.set()
        process = self._process
        if process is not None and process.alive:
            await self._end(process, deadline)
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run_repeatedly(self, launch: Launch, *, once: bool) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            code = await self._run(launch)
            if self._stopping.is_set() or (once and code == 0):
                return
            if asyncio.get_running_loop().time() - began >= self.timing.backoff_reset:
                failures = 0
            if failures > 0:
                await self._back_off(min(self.timing.backoff_limit, self.timing.backoff_first * 2 ** (failures - 1)))
            failures = min(failures + 1, 32)

    async def _back_off(self, seconds: float) -> None:
        message = f"back-off {seconds:g}s restarting failed container={self.name}"
        self.last_state, self.state = self.state, {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        self.changed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run(self, launch: Launch) -> int:
        """Run the process once, with its probes; return its exit code."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.restarts += 1 if self.last_state else 0
        self._launch = launch
        began = timestamp(self.now())
        logged = launch.logged()
        try:
            process = self._process = launch.start()
        except OSError as error:
            message = f"{' '.join(launch.command[:1])}: {error.strerror or error}".removeprefix(": ")
            self._ended({"exitCode": 128, "reason": "StartError", "message": message, "startedAt": began})
            return 128
        self.state = {"running": {"startedAt": began}}
        self.changed()
        probing = asyncio.create_task(self._probe(process, launch), name=f"probes of {self.name}")
        try:
            code = await process.wait()
        finally:
            process.kill_group()
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        reason = "Completed" if code == 0 else "Error"
        message = _termination_message(launch, self.spec, failed=code != 0, logged=logged)
        self._ended({"exitCode": code, "reason": reason, "message": message, "startedAt": began})
        return code

    def _ended(self, terminated: Object) -> None:
        self.started = False
        # An init container that ended well is ready; any other that ended is not.
        self.ready = terminated["exitCode"] == 0 and self._running is None
        self.state = {"terminated": {**terminated, "finishedAt": timestamp(self.now())}}
        self.changed()

    async def _probe(self, process: Process, launch: Launch) -> None:
        ports = self.spec.get("ports", [])
        startup, readiness, liveness = (
            Probe.of(self.spec.get(name), launch.host, ports)
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
        )
        if startup is not None and not await first_success(startup, self.timing.startup_interval):
            await self._restart(process, "startup")
            return
        self.started = True
        self._started.set()
        if readiness is None:
            self.ready = True
        self.changed()
        async with asyncio.TaskGroup() as group:
            if readiness is not None:
                group.create_task(follow(readiness, self._set_ready))
            if liveness is not None:
                group.create_task(self._live(process, liveness))

    def _set_ready(self, ready: bool) -> None:
        if self.ready != ready:
            self.ready = ready
            self.changed()

    async def _live(self, process: Process, probe: Probe) -> None:
        dead = asyncio.Event()
        following = asyncio.create_task(follow(probe, lambda alive: None if alive else dead.set()))
        try:
            await dead.wait()
        finally:
            following.cancel()
        await self._restart(process, "liveness")

    async def _restart(self, process: Process, probe: str) -> None:
        if self._stopping.is_set():  # a pod on its way out is let go in peace
            return
        if self._launch is not None:
            with contextlib.suppress(OSError), self._launch.log.open("a") as log:
                log.write(f"modelyard local: the {probe} probe failed, restarting the container\n")
            await self._end(process, asyncio.get_running_loop().time() + self._launch.grace)

    async def _end(self, process: Process, deadline: float) -> None:
        hooks = self.spec.get("lifecycle", {}).get("preStop", {})
        hook = hooks.get("httpGet")
        if "sleep" in hooks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline), asyncio.timeout(hooks["sleep"]["seconds"]):
                    await process.wait()
        if hook is not None and self._launch is not None:
            target = HttpTarget.of(hook, self._launch.host, self.spec.get("ports", []))
            await target.answers(max(0.001, deadline - asyncio.get_running_loop().time()))  # 0 would be for ever
        process.terminate()
        try:
            async with asyncio.timeout_at(deadline):
                await process.wait()
        except TimeoutError:
            process.kill_group()
            await process.wait()


def _termination_message(launch: Launch, spec: Object, *, failed: bool, logged: int) -> str:
    """Return what the process wrote to its termination log; as a fallback the end of its log, without earlier runs."""
    with contextlib.suppress(OSError):
        text = launch.termination_log.read_bytes()[:_MESSAGE_BYTES].decode(errors="replace").strip()
        if text:
            return text
    if failed and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        with contextlib.suppress(OSError), launch.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(logged, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    return ""
