"""One pod: its volumes, its containers in order, its status, its end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from modelyard_operator.reconcile.conditions import with_transition_times
from modelyard_runtime.contract import Env

from modelyard_local.addresses import PodAddresses
from modelyard_local.container import Container, Launch, Timing
from modelyard_local.errors import NoAddress
from modelyard_local.objects import Object, key_of
from modelyard_local.secrets import Secrets, environment_of
from modelyard_local.store import Store
from modelyard_local.unsupported import runs_here
from modelyard_local.volumes import Claims, PodVolumes, VolumeMissing, rewrite

__all__ = ["Node", "PodRunner"]


@dataclass(frozen=True)
class Node:
    """The parts of an installation that all its pods share."""

    store: Store
    addresses: PodAddresses
    pods: Path
    """Holds a folder per pod. Short, since Envoy's socket in it may have 107 bytes of path."""
    claims: Claims
    secrets: Secrets
    environment: Mapping[str, str]
    """Variables of every container, such as the DNS server's address."""
    mark: Mapping[str, str]
    now: Callable[[], datetime]
    timing: Timing = field(default_factory=Timing)


class PodRunner:
    """Runs one pod, as a kubelet does, and keeps the status of its object up to date."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.key, self.uid = key_of(pod), str(pod["metadata"]["uid"])
        self._node = node
        self._spec: Object = pod["spec"]
        self._status: Object = {}
        self._blocked: VolumeMissing | NoAddress | None = None
        self._initialized = False
        self._address: str | None = None
        self._stopping = asyncio.Event()
        self.folder: Path = node.pods / self.uid[:8]
        self._volumes = PodVolumes(self.folder / "v", self._spec, node.claims, self._config_map)
        self._inits = [self._container(spec) for spec in self._spec.get("initContainers", []) if runs_here(spec)]
        self._mains = [self._container(spec) for spec in self._spec["containers"] if runs_here(spec)]
        self._sidecars = [container for container in self._inits if container.spec.get("restartPolicy") == "Always"]
        self._task = asyncio.create_task(self._live(), name=f"pod {self.key.name}")

    def log_of(self, container: str) -> Path:
        """Return the file that a container writes to."""
        return self.folder / f"{container}.log"

    def refresh_volumes(self) -> None:
        """Bring configMap volumes up to date."""
        with contextlib.suppress(VolumeMissing):  # it goes on with what it has, as under a kubelet
            self._volumes.refresh()

    async def terminate(self, grace: float | None = None) -> None:
        """End the pod: preStop hooks, SIGTERM, the grace period, SIGKILL; sidecars last. Then it is gone."""
        seconds = self._spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace
        deadline = asyncio.get_running_loop().time() + seconds
        self._stopping.set()
        ordinary = [container for container in self._inits if container not in self._sidecars]
        await asyncio.gather(*(container.stop(deadline) for container in (*ordinary, *self._mains)))
        for sidecar in reversed(self._sidecars):
            await sidecar.stop(deadline)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._address is not None:
            self._node.addresses.give_back(self._address)
        self._node.store.purge(self.key)

    def _container(self, spec: Object) -> Container:
        return Container(spec, self._node.timing, self._node.now, self._publish)

    def _config_map(self, name: str) -> Object | None:
        return self._node.store.find(self.key._replace(kind="ConfigMap", name=name))

    async def _live(self) -> None:
        await self._prepare()
        for container in self._inits:
            if self._stopping.is_set():
                return
            if container in self._sidecars:
                container.keep_running(self._launch(container))
                await container.wait_until_started()
            else:
                await container.complete(self._launch(container))
        if self._stopping.is_set():
            return
        self._initialized = True
        for container in self._mains:
            container.state = {"waiting": {"reason": "ContainerCreating"}}
            container.keep_running(self._launch(container))

    async def _prepare(self) -> None:
        while True:
            try:
                self._address = self._address or self._node.addresses.take()
                self.folder.mkdir(parents=True, exist_ok=True)
                self._volumes.prepare()
                for container in (*self._inits, *self._mains):
                    self._volumes.mounts(container.spec)
                    environment_of(container.spec, self._node.secrets, str)
            except (VolumeMissing, NoAddress) as error:
                self._blocked = error
                self._publish()
                await asyncio.sleep(self._node.timing.startup_interval * 5)
            else:
                self._blocked = None
                self._publish()
                return

    def _launch(self, container: Container) -> Launch:
        spec, mounts = container.spec, self._volumes.mounts(container.spec)
        termination_log = self.folder / f"{container.name}.termination"
        address = str(self._address)
        given = {Env.HOST: address, Env.TERMINATION_LOG: str(termination_log), **self._node.environment}
        if "/tmp" in mounts:  # noqa: S108 - the container's own; here the machine's is there too
            given["TMPDIR"] = str(mounts["/tmp"])  # noqa: S108

        def environment() -> dict[str, str]:
            try:
                own = environment_of(spec, self._node.secrets, lambda value: rewrite(value, mounts))
            except VolumeMissing as error:
                raise OSError(str(error)) from None
            return own | {str(name): value for name, value in given.items()}

        return Launch(
            command=[rewrite(word, mounts) for word in (*spec.get("command", []), *spec.get("args", []))],
            environment=environment,
            folder=self.folder,
            log=self.log_of(container.name),
            termination_log=termination_log,
            mark=self._node.mark,
            host=address,
            grace=self._spec.get("terminationGracePeriodSeconds", 30),
        )

    def _publish(self) -> None:
        counted = [*self._mains, *self._sidecars]
        ready = self._initialized and all(container.ready for container in counted)
        waiting = [container.name for container in counted if not container.ready]
        unready = {} if ready else {"reason": "ContainersNotReady", "message": f"not ready: {', '.join(waiting)}"}
        flags = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Initialized", "status": _status(self._initialized)},
            {"type": "ContainersReady", "status": _status(ready), **unready},
            {"type": "Ready", "status": _status(ready), **unready},
        ]
        if self._blocked is not None and getattr(self._blocked, "unschedulable", True):
            flags[0] |= {"status": "False", "reason": "Unschedulable", "message": str(self._blocked)}
        self._status = {
            "phase": "Running" if self._initialized else "Pending",
            "conditions": with_transition_times({"status": self._status}, flags, self._node.now()),
            "hostIP": "127.0.0.1",
            **({"podIP": self._address} if self._address else {}),
            "initContainerStatuses": [container.status() for container in self._inits],
            "containerStatuses": [container.status() for container in self._mains],
        }
        self._node.store.put_status(self.key, self.uid, self._status)


def _status(flag: bool) -> str:
    return "True" if flag else "False"
