"""Envoy's admin interface, over its unix socket: what it has taken up, how busy it is, and the order to drain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from modelyard_router.errors import EnvoyUnreachable

__all__ = ["Admin", "Taken", "Traffic"]

_CDS = "cluster_manager.cds"
_RDS = "http.router.rds.router"
_WARMING = "cluster_manager.warming_clusters"
_CONNECTIONS = "http.router.downstream_cx_active"
_REQUESTS = re.compile(r"cluster\..+\.upstream_rq_total")


@dataclass(frozen=True, slots=True)
class Taken:
    """What Envoy has taken up: the versions of its clusters and routes ("" for none), and how often it refused each."""

    clusters: str
    routes: str
    clusters_refused: int
    routes_refused: int
    warming: int
    """Clusters that wait for their first DNS answer and health checks. Requests routed to one of them would fail."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Connections that are open now, and requests so far that went on to a model (so not the kubelet's probes)."""

    connections: int
    requests: int


class Admin:
    """A client of Envoy's admin socket, to be used as an async context manager."""

    def __init__(self, socket: Path, timeout: float = 5.0) -> None:
        # A connection each time: Envoy may be restarted between any two calls.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def taken(self) -> Taken:
        """Return what Envoy has taken up. Raises EnvoyUnreachable."""
        names = r"version_text|update_rejected|update_failure"
        stats = await self._stats(rf"{re.escape(_WARMING)}|({re.escape(_CDS)}|{re.escape(_RDS)})\.({names})")
        return Taken(
            clusters=stats.get(f"{_CDS}.version_text", ""),
            routes=stats.get(f"{_RDS}.version_text", ""),
            # Envoy counts a file that it could not parse as a failure, and one that it did not accept as rejected.
            clusters_refused=sum(int(stats.get(f"{_CDS}.update_{n}", 0)) for n in ("rejected", "failure")),
            routes_refused=sum(int(stats.get(f"{_RDS}.update_{n}", 0)) for n in ("rejected", "failure")),
            warming=int(stats.get(_WARMING, 0)),
        )

    async def traffic(self) -> Traffic:
        """Return how busy Envoy is. Raises EnvoyUnreachable."""
        stats = await self._stats(f"{re.escape(_CONNECTIONS)}|{_REQUESTS.pattern}")
        requests = sum(int(value) for name, value in stats.items() if _REQUESTS.fullmatch(name))
        return Traffic(connections=int(stats.get(_CONNECTIONS, 0)), requests=requests)

    async def drain(self) -> None:
        """Make Envoy close each connection after its next answer, while it goes on accepting new ones.

        Raises EnvoyUnreachable.
        """
        await self._request("POST", "/drain_listeners?graceful&skip_exit")

    async def metrics(self) -> bytes:
        """Return Envoy's statistics in Prometheus' text form. Raises EnvoyUnreachable."""
        return await self._request("GET", "/stats/prometheus")

    async def _stats(self, pattern: str) -> dict[str, str]:
        """Return the statistics whose whole names match; those that Envoy does not have (yet) are missing."""
        text = (await self._request("GET", "/stats", filter=f"^({pattern})$")).decode()
        pairs = (line.partition(": ") for line in text.splitlines())
        return {name: value.strip('"') for name, _, value in pairs}

    async def _request(self, method: str, path: str, **query: str) -> bytes:
        try:
            async with self._session.request(method, f"http://envoy{path}", params=query or None) as response:
                body = await response.read()
                if response.status != 200:
                    raise EnvoyUnreachable(f"Envoy's admin interface answered {response.status} to {path}")
                return body
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EnvoyUnreachable(
                f"Envoy does not answer on its admin socket: {error or type(error).__name__}"
            ) from error
