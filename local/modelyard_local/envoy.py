"""The Service proxy's configuration of Envoy: a listener and a cluster per port of a Service. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_local.endpoints import Endpoint

__all__ = ["Route", "bootstrap", "clusters", "endpoint_file", "endpoints", "listeners"]

_API = "type.googleapis.com/envoy"
_Json = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """Connections to one port of a Service, and where they go."""

    name: str
    address: str
    port: int
    endpoints: tuple[Endpoint, ...]


def bootstrap(folder: Path) -> _Json:
    """Return the file that Envoy starts with; the others are beside it."""
    return {
        "node": {"id": "modelyard-local", "cluster": "modelyard-local"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "dynamic_resources": {
            "lds_config": _source(folder / "lds.json"),
            "cds_config": _source(folder / "cds.json"),
        },
    }


def endpoint_file(route: Route) -> str:
    """Return the name of a route's endpoint file: one each, since Envoy takes one cluster's endpoints from a file."""
    return f"eds-{route.name}.json"


def listeners(routes: Iterable[Route]) -> _Json:
    """Return the listeners: connections, not requests, are spread, as kube-proxy does."""
    return {"resources": [_listener(route) for route in routes]}


def clusters(routes: Iterable[Route], folder: Path) -> _Json:
    """Return the clusters, each with its endpoints in a file of its own: a change there leaves connections alone."""
    return {"resources": [_cluster(route, folder) for route in routes]}


def endpoints(route: Route) -> _Json:
    """Return one cluster's endpoints."""
    found = [
        {"endpoint": {"address": {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}}}
        for endpoint in route.endpoints
    ]
    assignment = {
        "@type": f"{_API}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": route.name,
        "endpoints": [{"lb_endpoints": found}],
    }
    return {"resources": [assignment]}


def _source(path: Path) -> _Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _listener(route: Route) -> _Json:
    proxy = {
        "@type": f"{_API}.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": route.name,
        "cluster": route.name,
        # A pod that dies unannounced refuses: the next one is tried before the client learns of it.
        "max_connect_attempts": 5,
        "idle_timeout": "0s",  # a Service has no opinion on how long a connection may be silent
    }
    return {
        "@type": f"{_API}.config.listener.v3.Listener",
        "name": route.name,
        "address": {"socket_address": {"address": route.address, "port_value": route.port}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
        # Without this another process may listen on the same port unnoticed, and take half of the connections.
        "enable_reuse_port": False,
    }


def _cluster(route: Route, folder: Path) -> _Json:
    unlimited = {"max_connections": 1_000_000, "max_pending_requests": 1_000_000}
    return {
        "@type": f"{_API}.config.cluster.v3.Cluster",
        "name": route.name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _source(folder / endpoint_file(route))},
        "connect_timeout": "2s",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [unlimited]},
        "common_lb_config": {"update_merge_window": "0s"},
    }
