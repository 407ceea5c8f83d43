"""A router pod as a test sees it: real Envoy, real sidecar, small real models, and a DNS server for their names."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import aiohttp
import xxhash
from aiohttp import web
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from modelyard_operator.experiment.buckets import BucketMap
from modelyard_operator.manifests.envoy import RouterConfig, Upstream, envoy_command, render_router_files
from modelyard_runtime.contract import (
    HEADER_PREDICTION_ID,
    HEADER_VARIANT,
    PATH_READY,
    ROUTER_HTTP_PORT,
    ROUTER_READY_PATH,
    ROUTER_RUN_MOUNT,
    ROUTER_SIDECAR_PORT,
    Env,
)
from waiting import eventually_async

KEY = "x-user-id"
PATIENCE = 40.0  # seconds after which a test gives up waiting; nothing is asserted about how long things take


def bucket(salt: str, key: str) -> int:
    return xxhash.xxh64_intdigest(f"{salt}:{key}".encode()) % 10_000


def owner(bucket_map: BucketMap, number: int) -> str:
    for segment in bucket_map:
        number -= segment.size
        if number < 0:
            return segment.variant
    raise AssertionError("a map covers all buckets")


def free_address() -> str:
    """Return a loopback address on which nobody listens on the ports that pods use."""
    while True:
        address = f"127.{random.randint(64, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        try:
            for port in (ROUTER_HTTP_PORT, ROUTER_SIDECAR_PORT):
                with socket.socket() as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return address


class Dns(asyncio.DatagramProtocol):
    """A resolver for the names of headless Services."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: Any) -> None:
        question = DNSRecord.parse(data)
        reply = question.reply()
        name = str(question.q.qname).rstrip(".")
        if name not in self.records:
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype == QTYPE.A:
            for ip in self.records[name]:
                reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(ip), ttl=5))
        assert self._transport
        self._transport.sendto(reply.pack(), address)


@dataclass
class Model:
    """One pod of a variant: says who it is, forges the router's headers, and can be made unready or slow."""

    variant: str
    address: str
    ready: bool = True
    requests: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def host(self) -> str:
        return f"{self.variant}-pods.default.svc.cluster.local"

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get(PATH_READY, self._health)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, ROUTER_HTTP_PORT).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        if request.path == "/held":
            await self.gate.wait()
        return web.json_response(
            {
                "variant": self.variant,
                "headers": {k.lower(): v for k, v in request.headers.items()},
                "bytes": len(body),
            },
            headers={HEADER_VARIANT: "forged-by-model", HEADER_PREDICTION_ID: "forged-by-model"},
        )


@dataclass
class Answer:
    """What came back for one request."""

    key: str
    status: int
    variant: str
    prediction_id: str
    body: Any


class RouterPod:
    """Envoy and its sidecar on an address of their own, configured through a folder as the kubelet fills it."""

    def __init__(self, dns_address: str) -> None:
        self.address = free_address()
        self.url = f"http://{self.address}:{ROUTER_HTTP_PORT}"
        self.sidecar_url = f"http://{self.address}:{ROUTER_SIDECAR_PORT}"
        self.folder = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
        self.config, self.run = self.folder / "config", self.folder / "run"
        self.config.mkdir()
        self.log = self.folder / "log"
        self._env = {**os.environ, Env.HOST: self.address, Env.DNS: dns_address}
        self._generation = 0
        self.sidecar: asyncio.subprocess.Process | None = None
        self.envoy: asyncio.subprocess.Process | None = None

    def publish(self, files: dict[str, str]) -> str:
        """Replace the folder's content at once, as the kubelet does; return the version."""
        self._generation += 1
        name = f"..{self._generation}"
        generation = self.config / name
        generation.mkdir()
        for file, text in files.items():
            (generation / file).write_text(text)
            if not (self.config / file).is_symlink():
                (self.config / file).symlink_to(f"..data/{file}")
        (self.config / "..new").symlink_to(name)
        (self.config / "..new").rename(self.config / "..data")
        if self._generation > 1:
            shutil.rmtree(self.config / f"..{self._generation - 1}")
        return files["version"]

    async def start_sidecar(self) -> None:
        arguments = ("-m", "modelyard_router", "--config-dir", str(self.config), "--run-dir", str(self.run))
        with self.log.open("ab") as log:
            self.sidecar = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, env=self._env, stdout=log, stderr=log
            )

    async def start_envoy(self) -> None:
        program, *arguments = [part.replace(ROUTER_RUN_MOUNT, str(self.run)) for part in envoy_command()]
        with self.log.open("ab") as log:
            self.envoy = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / program), *arguments, "--concurrency", "2", stdout=log, stderr=log
            )

    async def stop(self) -> None:
        """End both as Kubernetes does: Envoy first, then the native sidecar."""
        for process in (self.envoy, self.sidecar):
            if process and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(PATIENCE):
                        await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
                        await process.wait()
        shutil.rmtree(self.folder)


class World:
    """Everything one test runs, ended with it."""

    def __init__(self) -> None:
        self.models: dict[str, list[Model]] = {}
        self.pods: list[RouterPod] = []
        self.dns = Dns()
        self._dns_transport: asyncio.BaseTransport | None = None
        self.dns_address = ""

    async def __aenter__(self) -> Self:
        # Connections are the test's own choice: nothing is reused behind its back, nothing sent twice.
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        loop = asyncio.get_running_loop()
        self._dns_transport, _ = await loop.create_datagram_endpoint(lambda: self.dns, local_addr=("127.0.0.1", 0))
        self.dns_address = "{}:{}".format(*self._dns_transport.get_extra_info("sockname"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()
        for pod in self.pods:
            if error:
                print(pod.log.read_text()[-6000:])
            await pod.stop()
        for models in self.models.values():
            for model in models:
                await model.stop()
        if self._dns_transport:
            self._dns_transport.close()
        await asyncio.sleep(0)

    async def model(self, variant: str) -> Model:
        """Start one more pod of a variant, and have the DNS list it."""
        model = Model(variant, free_address())
        await model.start()
        self.models.setdefault(variant, []).append(model)
        self.dns.records[model.host] = [m.address for m in self.models[variant]]
        return model

    def config(self, buckets: BucketMap, **changes: Any) -> RouterConfig:
        """Return the configuration of a test over all models that run."""
        upstreams = tuple(Upstream(v, m[0].host, ROUTER_HTTP_PORT, 20.0) for v, m in self.models.items())
        fields: dict[str, Any] = {
            "name": "churn-test",
            "epoch": 1,
            "salt": "churn-test",
            "header": KEY,
            "override_header": HEADER_VARIANT,
            "upstreams": upstreams,
            "buckets": buckets,
        }
        return RouterConfig(**{**fields, **changes})

    async def router(self, config: RouterConfig) -> RouterPod:
        """Start a router pod and wait until it works by the configuration."""
        pod = RouterPod(self.dns_address)
        self.pods.append(pod)
        version = pod.publish(render_router_files(config))
        await pod.start_sidecar()
        await eventually_async(lambda: self.status_of(f"{pod.sidecar_url}/started"), lambda status: status == 200)
        await pod.start_envoy()
        await self.applied(pod, version)
        await eventually_async(lambda: self.status_of(f"{pod.url}{ROUTER_READY_PATH}"), lambda status: status == 200)
        return pod

    async def shift(self, pod: RouterPod, config: RouterConfig) -> None:
        """Publish another configuration and wait until the pod works by it."""
        await self.applied(pod, pod.publish(render_router_files(config)))

    async def applied(self, pod: RouterPod, version: str) -> None:
        await eventually_async(lambda: self.report(pod), lambda report: report == {"version": version, "error": None})

    async def report(self, pod: RouterPod) -> dict[str, str | None]:
        """Return what the sidecar says it has applied."""
        async with self.session.get(f"{pod.sidecar_url}/applied") as response:
            report: dict[str, str | None] = await response.json()
            return report

    async def status_of(self, url: str) -> int:
        """Return the status of an answer, 0 where nobody listens."""
        try:
            async with self.session.get(url) as response:
                await response.read()
                return response.status
        except aiohttp.ClientConnectionError:
            return 0

    async def ask(self, pod: RouterPod, key: str | None = None, path: str = "/predict", **headers: str) -> Answer:
        """Send one prediction; POST, so that no client sends it twice on its own."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent[KEY] = key
        async with self.session.post(f"{pod.url}{path}", headers=sent, data=b"{}") as response:
            return Answer(
                key=key or "",
                status=response.status,
                variant=response.headers.get(HEADER_VARIANT, ""),
                prediction_id=response.headers.get(HEADER_PREDICTION_ID, ""),
                body=json.loads(await response.read()),
            )

    async def ask_all(self, pod: RouterPod, keys: list[str], at_once: int = 16) -> dict[str, Answer]:
        """Send one prediction per key."""
        remaining, answers = iter(keys), {}

        async def client() -> None:
            for key in remaining:
                answers[key] = await self.ask(pod, key)

        await asyncio.gather(*(client() for _ in range(at_once)))
        return answers

    @asynccontextmanager
    async def load(self, pod: RouterPod, at_once: int = 4, users: int = 2000) -> AsyncIterator[list[Answer]]:
        """Keep users asking while the block runs, and for a while before and after; gives the answers so far."""
        answers: list[Answer] = []
        over = asyncio.Event()

        async def client(number: int) -> None:
            choice = random.Random(number)
            while not over.is_set():
                answers.append(await self.ask(pod, f"user-{choice.randrange(users)}"))

        async def more(count: int) -> None:
            enough = len(answers) + count
            await eventually_async(lambda: len(answers), lambda n: n >= enough or any(c.done() for c in clients))

        clients = [asyncio.create_task(client(number)) for number in range(at_once)]
        try:
            await more(200)
            yield answers
            await more(200)
        finally:
            over.set()
            await asyncio.gather(*clients)
