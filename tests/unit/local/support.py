"""Parts of local mode put together for tests: a store with its supervisor, and small servers as containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from modelyard_local.addresses import AddressBlock, PodAddresses, ServiceAddresses
from modelyard_local.container import Timing
from modelyard_local.database import Database
from modelyard_local.deployments import DeploymentController
from modelyard_local.kubelet import Kubelet
from modelyard_local.objects import Key, is_ready
from modelyard_local.pod import Node
from modelyard_local.proxy import ServicePorts, ServiceProxy
from modelyard_local.reaper import MARK, sweep
from modelyard_local.secrets import Secrets
from modelyard_local.state import StateFolder
from modelyard_local.store import Store
from modelyard_local.volumes import Claims

Object = dict[str, Any]
SECONDS = 60.0

SERVER = r"""
# A server that answers with VERSION. Told to stop, it goes on for a moment, as a model server does.
import asyncio, os, signal

async def answer(reader, writer):
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        body = os.environ.get("VERSION", "").encode()
        if request.startswith(b"GET /env "):
            body = repr(dict(os.environ)).encode()
        if request.startswith(b"GET /config "):
            body = open(os.environ["CONFIG"] + "/text", "rb").read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(answer, os.environ["MODELYARD_HOST"], 8080)
    await stop.wait()
    await asyncio.sleep(float(os.environ.get("DRAIN", "0")))
    server.close()
    await server.wait_closed()

asyncio.run(main())
"""


def container(code: str = SERVER, *, name: str = "runtime", probe: bool = True, **env: str) -> Object:
    """Return a container that runs Python code."""
    spec: Object = {
        "name": name,
        "command": ["python", "-c", code],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    if probe:
        spec["readinessProbe"] = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5}
        spec["startupProbe"] = {**spec["readinessProbe"], "failureThreshold": 60}
    return spec


def deployment(name: str, *containers: Object, replicas: int = 1, **pod_spec: Any) -> Object:
    """Return a Deployment as the operator renders them."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 10, **pod_spec},
            },
        },
    }


def service(name: str, *, headless: bool = False) -> Object:
    """Return a Service over the pods of the Deployment of that name."""
    spec: Object = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]}
    if headless:
        spec["clusterIP"] = "None"
    metadata = {"name": f"{name}-pods" if headless else name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


async def http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Return the status and body of a GET on a connection of its own."""
    async with aiohttp.request("GET", f"http://{host}:{port}{path}") as response:
        return response.status, await response.read()


@dataclass
class Rig:
    """A store with a supervisor, and no operator."""

    store: Store
    node: Node
    kubelet: Kubelet
    addresses: ServiceAddresses
    ports: ServicePorts
    proxy: ServiceProxy | None = None

    def pods(self, name: str) -> list[Object]:
        return self.store.select("Pod", "default", {"app": name})

    def ready(self, name: str) -> list[Object]:
        return [pod for pod in self.pods(name) if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def deployment(self, name: str) -> Object:
        found = self.store.find(Key("Deployment", "default", name))
        assert found is not None
        return found

    def rolled_out(self, name: str) -> bool:
        live = self.deployment(name)
        status = live.get("status", {})
        wanted = live["spec"]["replicas"]
        return bool(
            status.get("observedGeneration") == live["metadata"]["generation"]
            and status["replicas"] == status["updatedReplicas"] == status["availableReplicas"] == wanted
        )

    def url(self, name: str) -> tuple[str, int]:
        return self.addresses.of("default", name), self.ports.of(80)


@asynccontextmanager
async def rig(folder: Path, *, proxy: bool = False, timing: Timing | None = None) -> AsyncIterator[Rig]:
    """Run a supervisor in a folder."""
    state = StateFolder(folder)
    state.make()
    mark = {MARK: str(state.root)}
    now = lambda: datetime.now(UTC)  # noqa: E731
    async with AsyncExitStack() as stack:
        database = Database(state.database)
        stack.callback(database.close)
        block = AddressBlock.claim(None)
        stack.callback(block.release)
        store = Store(database, now)
        addresses = ServiceAddresses(block, database, lambda *_: True)
        store.give_addresses(addresses.of)
        ports = ServicePorts(block.own)
        node = Node(
            store=store,
            addresses=PodAddresses(block),
            pods=state.pods,
            claims=Claims(state.claims, {}),
            secrets=Secrets(state.secrets),
            environment={"MODELYARD_DNS": "127.0.0.1:1"},
            mark=mark,
            now=now,
            timing=timing or Timing(backoff_first=0.2),
        )
        kubelet = Kubelet(node)
        tasks = [asyncio.create_task(DeploymentController(store, now).run())]
        service_proxy = None
        if proxy:
            service_proxy = ServiceProxy(store, ports, state.proxy, mark=mark, now=now)
            await service_proxy.start()
            tasks.append(asyncio.create_task(service_proxy.run()))
        try:
            yield Rig(store, node, kubelet, addresses, ports, service_proxy)
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await kubelet.shut_down()
            if service_proxy is not None:
                await service_proxy.stop()
            assert sweep(str(state.root)) == 0, "processes were left behind"


@dataclass
class Load:
    """Requests, each on a connection of its own, as long as the context is open."""

    address: str
    port: int
    clients: int = 4
    answers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self) -> None:
        while True:
            try:
                status, body = await http_get(self.address, self.port, "/")
            except aiohttp.ClientError as error:
                self.failures.append(str(error))
            else:
                (self.answers if status == 200 else self.failures).append(body.decode())
            await asyncio.sleep(0.005)
