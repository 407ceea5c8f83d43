"""One installation: store, reconcile, supervisor, DNS and Service proxy, put together."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.manifests.settings import Settings
from modelyard_operator.reconcile.conditions import timestamp
from modelyard_operator.reconcile.controller import Controller
from modelyard_runtime.contract import GRPC_PORT, HTTP_PORT, ROUTER_SIDECAR_PORT, Env

from modelyard_local.addresses import AddressBlock, PodAddresses, ServiceAddresses, check_ports
from modelyard_local.cluster import LocalCluster
from modelyard_local.container import Timing
from modelyard_local.control import ControlServer
from modelyard_local.database import Database
from modelyard_local.deployments import DeploymentController
from modelyard_local.dns import DnsServer
from modelyard_local.kubelet import Kubelet
from modelyard_local.objects import Key, key_of
from modelyard_local.pod import Node
from modelyard_local.progress import Progress
from modelyard_local.proxy import ServicePorts, ServiceProxy
from modelyard_local.reaper import MARK, start_reaper, sweep
from modelyard_local.secrets import Secrets
from modelyard_local.state import StateFolder
from modelyard_local.store import Store
from modelyard_local.unsupported import NO_IMAGE
from modelyard_local.volumes import Claims

__all__ = ["Options", "run_installation", "set_conditions_unknown"]

_DOMAIN = "cluster.local"
_BLOCK = "address-block"


@dataclass(frozen=True)
class Options:
    """The options of `up`."""

    state: Path
    claims: Mapping[str, Path] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    router_replicas: int = 1


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def run_installation(options: Options, write: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run until `stop` is set. Must run in the main thread: the kernel ties the processes' lives to it.

    Args:
        options: where the state is, and what stands for claims.
        write: takes lines of progress.
        stop: ends everything; what was applied stays in the state folder.

    Raises:
        LocalError: another `up` runs, or this machine lacks something; the message says what to do.
    """
    state = StateFolder(options.state)
    state.make()
    with state.locked():
        mark = str(state.root)
        left = sweep(mark)
        progress = Progress(write, _utc_now)
        if left:
            progress.say(f"ended {left} processes that an earlier run had left behind")
        for folder in (state.pods, state.proxy):
            shutil.rmtree(folder, ignore_errors=True)
        state.make()
        reaper = start_reaper(mark)
        try:
            with contextlib.closing(Database(state.database)) as database:
                await _Installation(options, state, database, progress, stop).run()
        finally:
            if reaper.stdin is not None:
                reaper.stdin.close()
            reaper.wait()


class _Installation:
    def __init__(
        self, options: Options, state: StateFolder, database: Database, progress: Progress, stop: asyncio.Event
    ) -> None:
        self._options, self._state, self._database = options, state, database
        self._progress, self._stop = progress, stop

    async def run(self) -> None:
        preferred = self._database.setting(_BLOCK)
        block = AddressBlock.claim(int(preferred) if preferred else None)
        try:
            if str(block.number) != preferred:
                if preferred:
                    self._progress.say("another installation has our addresses by now: Services get new ones")
                self._database.save_setting(_BLOCK, str(block.number))
            check_ports(block.own, (HTTP_PORT, GRPC_PORT, ROUTER_SIDECAR_PORT))
            await self._run(block)
        finally:
            block.release()

    async def _run(self, block: AddressBlock) -> None:
        store = Store(self._database, _utc_now)
        set_conditions_unknown(store, _utc_now())
        addresses = ServiceAddresses(
            block, self._database, lambda namespace, name: store.find(Key("Service", namespace, name)) is not None
        )
        ports = ServicePorts(block.own)
        store.give_addresses(addresses.of, ports.of)
        if ports.of(80) != 80:
            self._progress.say(
                f"this user may not listen on port 80: Services listen on {ports.of(80)} "
                "(`sysctl net.ipv4.ip_unprivileged_port_start=80` allows it)"
            )
        mark = {MARK: str(self._state.root)}
        proxy = ServiceProxy(store, ports, self._state.proxy, mark=mark, now=_utc_now)
        dns = DnsServer(store, block.own, _DOMAIN)
        await dns.start()
        node = Node(
            store=store,
            addresses=PodAddresses(block),
            pods=self._state.pods,
            claims=Claims(self._state.claims, self._options.claims),
            secrets=Secrets(self._state.secrets),
            environment={Env.DNS: dns.address},
            mark=mark,
            now=_utc_now,
            timing=self._options.timing,
        )
        kubelet = Kubelet(node)
        deployments = DeploymentController(store, _utc_now)
        settings = self._settings(addresses, ports)
        controller = Controller(LocalCluster(store, self._progress.on_applied), settings, _utc_now)
        store.subscribe(self._progress.on_change)
        store.subscribe(
            lambda change: controller.on_event(change.object["kind"], change.object, deleted=change.what == "deleted")
        )
        control = ControlServer(store, kubelet, self._stop, _utc_now)
        try:
            await proxy.start()
            restored = [obj for kind in CUSTOM_KINDS for obj in store.select(kind)]
            if restored:
                names = ", ".join(f"{obj['kind'].lower()}/{obj['metadata']['name']}" for obj in restored)
                self._progress.say(f"restoring {names}")
            for obj in restored:
                controller.on_event(obj["kind"], obj)
            await control.start(self._state.socket)
            self._progress.say(f"up: state in {self._state.root}, Services on {block.service(0)}/24")
            await _until(self._stop, controller.run(), deployments.run(), kubelet.run(), proxy.run())
            self._progress.say("stopping; what was applied comes back with the next `modelyard local up`")
        finally:
            await control.stop()
            await kubelet.shut_down()
            await proxy.stop()
            await dns.stop()

    def _settings(self, addresses: ServiceAddresses, ports: ServicePorts) -> Settings:
        def url(namespace: str, service: str) -> str:
            port = ports.of(80)
            return f"http://{addresses.of(namespace, service)}" + ("" if port == 80 else f":{port}")

        return Settings(
            runtime_image=NO_IMAGE,
            router_image=NO_IMAGE,
            envoy_image=NO_IMAGE,
            cluster_domain=_DOMAIN,
            router_replicas=self._options.router_replicas,
            service_url=url,
        )


def set_conditions_unknown(store: Store, now: datetime) -> None:
    """Make what was true before a restart Unknown: a `wait` must not believe it until it is observed again."""
    for kind in CUSTOM_KINDS:
        for obj in store.select(kind):
            status = obj.get("status", {})
            doubted = [
                entry
                | {
                    "status": "Unknown",
                    "reason": "Restarting",
                    "message": "modelyard local was started again",
                    "lastTransitionTime": timestamp(now),
                }
                if entry["status"] == "True"
                else entry
                for entry in status.get("conditions", [])
            ]
            if doubted:
                store.put_status(key_of(obj), obj["metadata"]["uid"], {**status, "conditions": doubted})


async def _until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run until `stop`; what dies before takes everything down with it, loudly."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    waiting = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)
