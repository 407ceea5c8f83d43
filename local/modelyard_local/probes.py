"""The kubelet's HTTP probes of one running container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from modelyard_local.objects import Object

__all__ = ["HttpTarget", "Probe", "first_success", "follow", "port_number"]

_BODY_BYTES = 10 * 1024  # of an answer that a kubelet reads


@dataclass(frozen=True)
class HttpTarget:
    """The target of an `httpGet` of a probe or hook."""

    url: str

    @classmethod
    def of(cls, action: Object, host: str, ports: list[Object]) -> HttpTarget:
        """Return the target of an `httpGet`, its port looked up by name. Raises KeyError for an unknown name."""
        path: str = action.get("path", "/").lstrip("/")
        return cls(f"http://{action.get('host', host)}:{port_number(action['port'], ports)}/{path}")

    async def answers(self, timeout: float) -> bool:
        """Return whether a GET on a connection of its own is answered with 200 to 399 within `timeout` seconds."""
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with aiohttp.request("GET", self.url, allow_redirects=False, timeout=limit) as response:
                await response.content.read(_BODY_BYTES)
        except (aiohttp.ClientError, TimeoutError):
            return False
        return response.status < 400


@dataclass(frozen=True)
class TcpTarget:
    """The target of a `tcpSocket` of a probe."""

    host: str
    port: int

    @classmethod
    def of(cls, action: Object, host: str, ports: list[Object]) -> TcpTarget:
        """Return the target of a `tcpSocket`, its port looked up by name. Raises KeyError for an unknown name."""
        return cls(action.get("host", host), port_number(action["port"], ports))

    async def answers(self, timeout: float) -> bool:
        """Return whether a connection is taken within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:  # a TimeoutError is one as well
            return False
        writer.close()
        return True


@dataclass(frozen=True)
class Probe:
    """A probe with Kubernetes' defaults filled in. Times are seconds."""

    target: HttpTarget | TcpTarget
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def of(cls, spec: Object | None, host: str, ports: list[Object]) -> Probe | None:
        """Return the probe of a container's spec; None for none, or one that is neither httpGet nor tcpSocket."""
        if not spec or not spec.keys() & {"httpGet", "tcpSocket"}:
            return None
        return cls(
            HttpTarget.of(spec["httpGet"], host, ports)
            if "httpGet" in spec
            else TcpTarget.of(spec["tcpSocket"], host, ports),
            initial_delay=spec.get("initialDelaySeconds", 0),
            period=spec.get("periodSeconds", 10),
            timeout=spec.get("timeoutSeconds", 1),
            successes=spec.get("successThreshold", 1),
            failures=spec.get("failureThreshold", 3),
        )


def port_number(port: int | str, ports: list[Object]) -> int:
    """Return a port's number, looked up among a container's ports when it is a name. Raises KeyError."""
    if isinstance(port, int):
        return port
    for entry in ports:
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise KeyError(port)


async def first_success(probe: Probe, interval: float) -> bool:
    """Return whether a startup probe succeeds before its failures are used up.

    Asks more often than the probe's period says: a second is the shortest that Kubernetes knows, and long on one
    machine. The time allowed stays as given.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(probe.initial_delay)
    end = loop.time() + probe.period * probe.failures
    while True:
        if await probe.target.answers(probe.timeout):
            return True
        if loop.time() >= end:
            return False
        await asyncio.sleep(min(interval, probe.period))


async def follow(probe: Probe, report: Callable[[bool], None]) -> None:
    """Probe until cancelled; report success or failure whenever the threshold for it is reached."""
    await asyncio.sleep(probe.initial_delay)
    successes = failures = 0
    while True:
        if await probe.target.answers(probe.timeout):
            successes, failures = successes + 1, 0
        else:
            successes, failures = 0, failures + 1
        if successes >= probe.successes:
            report(True)
        elif failures >= probe.failures:
            report(False)
        await asyncio.sleep(probe.period)
