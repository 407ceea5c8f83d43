"""The router's configuration files: one ABTest's split, written as Envoy reads it.

Three files are Envoy's: the bootstrap (listener and admin socket, the same for every spec), the clusters (one per
variant) and the routes (the split). A shift changes the routes alone, so it costs Envoy neither a connection nor a
health check.

Which route takes a request, in this order, after the readiness probe's own path, which Envoy answers itself:

1. the override header names a variant: that variant. A value that names none is ignored, so that a stale bookmark still
   gets an answer;
2. no key, or an empty one: a random variant by weight, for each request anew;
3. the split: `xxh64("SALT:KEY") % 10000` in the bucket map.

Each route says in its metadata `modelyard` under which epoch and by which of these rules it answered.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.contract import (
    HEADER_PREDICTION_ID,
    HEADER_ROUTER,
    HEADER_VARIANT,
    PATH_READY,
    ROUTER_READY_PATH,
    ROUTER_RUN_MOUNT,
    RouterFile,
)

from modelyard_operator.api.abtest import is_reserved
from modelyard_operator.experiment.buckets import Segment, sizes, to_json
from modelyard_operator.manifests.envoybootstrap import (
    ENVOY_API,
    HOST_PLACEHOLDER,
    ROUTER,
    RUN_PLACEHOLDER,
    extension,
    overwrite,
    render_bootstrap,
)

__all__ = ["HOST_PLACEHOLDER", "RUN_PLACEHOLDER", "RouterConfig", "Upstream", "envoy_command", "render_router_files"]

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the pods of one variant are, and the time that an answer may take.

    `host` is an address, or a full DNS name (no search list is tried) that resolves to the addresses of the ready pods.
    """

    variant: str
    host: str
    port: int
    timeout_seconds: float
    health_path: str | None = PATH_READY
    """The path that is asked for the health of a pod; None: whether the port is open."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The split of one ABTest.

    `header` names the request header that holds a user's key, `override_header` the one that forces a variant, if any.
    `upstreams` holds every variant, those without a bucket too: they can be forced, and are warm when they get weight.
    """

    name: str
    epoch: int
    salt: str
    header: str
    override_header: str | None
    upstreams: tuple[Upstream, ...]
    buckets: tuple[Segment, ...]


def envoy_command() -> list[str]:
    """Return the command line of the Envoy container; the caller adds `--concurrency`.

    Drain strategy `immediate`: from the start of a drain every answer closes its connection, so the drain is as short
    as the clients' next requests allow. The sidecar decides when it is over, hence the long drain time.
    """
    return [
        "envoy",
        *("-c", f"{ROUTER_RUN_MOUNT}/{RouterFile.BOOTSTRAP}"),
        "--disable-hot-restart",
        *("--drain-strategy", "immediate"),
        *("--drain-time-s", "3600"),
        *("--log-level", "warning"),
    ]


def render_router_files(config: RouterConfig) -> dict[str, str]:
    """Return the data of the ConfigMap NAME-router: RouterFile -> content, the same for the same config.

    `version` is 12 hex digits of a hash over bootstrap, clusters and routes, and also stands in both of Envoy's dynamic
    files: so that a reader can tell that they belong together, and Envoy says which it took.

    Raises:
        ValueError: a header name or salt that Envoy could not use as meant, a bucket map without a total of 10000 or
            with a variant that has no upstream, or an upstream that is no address.

    """
    header, override = _validated(config)
    bootstrap = render_bootstrap(config.name)
    clusters = [_cluster(upstream) for upstream in sorted(config.upstreams, key=lambda u: u.variant)]
    routes = [_route_configuration(config, header, override)]
    version = hashlib.sha256(_json([bootstrap, clusters, routes]).encode()).hexdigest()[:12]
    return {
        RouterFile.BOOTSTRAP.value: _json(bootstrap),
        RouterFile.CDS.value: _json({"version_info": version, "resources": clusters}),
        RouterFile.RDS.value: _json({"version_info": version, "resources": routes}),
        RouterFile.BUCKETS.value: to_json(config.buckets),
        RouterFile.VERSION.value: version,
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _validated(config: RouterConfig) -> tuple[str, str | None]:
    """Return the two header names in lower case, as Envoy compares them, or raise ValueError."""
    header = _header_name(config.header)
    override = None if config.override_header is None else _header_name(config.override_header)
    if header in (override, HEADER_VARIANT):
        raise ValueError(f"the header {header!r} can't both force a variant and identify a user")
    if not config.salt or not config.salt.isprintable():
        raise ValueError(f"the salt {config.salt!r} is empty or holds control characters: use printable ones")
    variants = [upstream.variant for upstream in config.upstreams]
    if len(set(variants)) != len(variants) or not all(variants):
        raise ValueError(f"each variant needs a name of its own: {variants}")
    for upstream in config.upstreams:
        if not upstream.host or not 0 < upstream.port < 65536 or not upstream.timeout_seconds > 0:
            raise ValueError(f"not an address with a positive timeout: {upstream}")
    to_json(config.buckets)  # raises unless the total is right
    if unknown := sizes(config.buckets).keys() - set(variants):
        raise ValueError(f"the bucket map names variants that have no upstream: {', '.join(sorted(unknown))}")
    return header, override


def _header_name(name: str) -> str:
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(lower):
        raise ValueError(f"{name!r} is not the name of an HTTP header: use letters, digits and dashes")
    if is_reserved(lower):
        raise ValueError(f"the header {name!r} does not reach the router as the client sent it: use another one")
    return lower


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"


# --- routes ---


def _route_configuration(config: RouterConfig, header: str, override: str | None) -> _Json:
    timeouts = {upstream.variant: upstream.timeout_seconds for upstream in config.upstreams}
    ready = {"status": 200, "body": {"inline_string": "ready"}}
    routes: list[_Json] = [{"match": {"path": ROUTER_READY_PATH}, "direct_response": ready}]
    if override is not None:
        for variant in sorted(timeouts):
            match = {"name": override, "string_match": {"exact": variant}}
            routes.append(_route(config, "override", match, {"cluster": variant}, timeouts[variant]))
    longest = max(timeouts[segment.variant] for segment in config.buckets)
    keyless = {"name": header, "string_match": {"exact": ""}, "treat_missing_header_as_empty": True}
    by_weight = tuple(Segment(variant, size) for variant, size in sorted(sizes(config.buckets).items()))
    routes.append(_route(config, "random", keyless, _split(by_weight, timeouts, longest), longest))
    # `^` rather than a pattern for the whole value: it holds for any bytes, also those that are not UTF-8.
    salting = {"pattern": {"regex": "^"}, "substitution": config.salt.replace("\\", "\\\\") + ":"}
    split = _split(config.buckets, timeouts, longest)
    split["weighted_clusters"]["use_hash_policy"] = True
    split["hash_policy"] = [{"header": {"header_name": header, "regex_rewrite": salting}, "terminal": True}]
    routes.append(_route(config, "split", None, split, longest))
    removed = {HEADER_VARIANT, HEADER_PREDICTION_ID, *([override] if override else [])}
    return {
        "@type": f"{ENVOY_API}.config.route.v3.RouteConfiguration",
        "name": ROUTER,
        "virtual_hosts": [{"name": ROUTER, "domains": ["*"], "routes": routes}],
        "request_headers_to_remove": sorted(removed),
    }


def _route(config: RouterConfig, rule: str, header_match: _Json | None, action: _Json, timeout: float) -> _Json:
    match: _Json = {"prefix": "/"}
    if header_match:
        match["headers"] = [header_match]
    return {
        "match": match,
        "metadata": {"filter_metadata": {"modelyard": {"epoch": config.epoch, "rule": rule}}},
        # Overwritten: neither a client nor a model can forge who answered, or under which id rewards are joined.
        "response_headers_to_add": [
            overwrite(HEADER_VARIANT, "%UPSTREAM_CLUSTER_RAW%"),
            overwrite(HEADER_PREDICTION_ID, "%STREAM_ID%"),
        ],
        "route": {
            **action,
            "timeout": _duration(timeout),
            # Envoy's own limit on silence (5 min) would cut a longer timeout short.
            "idle_timeout": _duration(max(300.0, timeout + 30)),
            "retry_policy": {
                # Only where the model can't have seen the request: a prediction is never computed or counted twice.
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 3,
                "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
                "retry_host_predicate": [
                    extension(
                        "envoy.retry_host_predicates.previous_hosts",
                        "retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    )
                ],
                "host_selection_retry_max_attempts": "5",
            },
        },
    }


def _split(segments: tuple[Segment, ...], timeouts: dict[str, float], longest: float) -> _Json:
    """Return weighted clusters in bucket order; Envoy takes a name more than once."""
    clusters: list[_Json] = []
    for segment in segments:
        cluster: _Json = {"name": segment.variant, "weight": segment.size}
        if timeouts[segment.variant] != longest:
            # A route has one timeout for all its clusters. This header, which Envoy takes from nobody outside, shortens
            # it for one variant and does not leave the router.
            milliseconds = str(round(timeouts[segment.variant] * 1000))
            mutation = {"append": overwrite("x-envoy-upstream-rq-timeout-ms", milliseconds)}
            cluster["typed_per_filter_config"] = {
                "envoy.filters.http.header_mutation": {
                    "@type": f"{ENVOY_API}.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
                    "mutations": {"request_mutations": [mutation]},
                }
            }
        clusters.append(cluster)
    return {"weighted_clusters": {"clusters": clusters}}


# --- clusters ---


def _cluster(upstream: Upstream) -> _Json:
    address = {"socket_address": {"address": _absolute(upstream.host), "port_value": upstream.port}}
    # No limits of Envoy's own: the models' queues answer 429, and a breaker would turn one arm's load into its errors.
    unlimited = {"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000}
    return {
        "@type": f"{ENVOY_API}.config.cluster.v3.Cluster",
        "name": upstream.variant,
        "cluster_type": extension(
            "envoy.cluster.dns",
            "clusters.dns.v3.DnsCluster",
            dns_lookup_family="V4_PREFERRED",
            dns_refresh_rate="1s",
            dns_failure_refresh_rate={"base_interval": "1s", "max_interval": "2s"},
        ),
        "load_assignment": {
            "cluster_name": upstream.variant,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "connect_timeout": "1s",
        # An address that left the DNS may soon be another model's: it is dropped even while it still answers.
        "ignore_health_on_host_removal": True,
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {
            # When no pod passes its check, use those that do not: at the end of a rollout the last that DNS has told of
            # may be draining, which is to say still answering.
            "healthy_panic_threshold": {"value": 1},
            "update_merge_window": "0s",  # a host that fails its check is out at once, not up to a second later
        },
        "circuit_breakers": {"thresholds": [{**unlimited, "max_retries": 1_000_000}]},
        "health_checks": [
            {
                **_health_check(upstream),
                "interval": "1s",
                "no_traffic_interval": "1s",
                "no_traffic_healthy_interval": "1s",
                "timeout": "2s",
                "healthy_threshold": 1,
                # For silence only, which may be load: any answer but 200 takes the host out at the first check.
                "unhealthy_threshold": 3,
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{ENVOY_API}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                # Below the 5 s after which servers usually close an idle connection: Envoy must be the first to let go,
                # or a request meets a connection that is being closed.
                "common_http_protocol_options": {"idle_timeout": "4s"},
            }
        },
    }


def _health_check(upstream: Upstream) -> _Json:
    if upstream.health_path is None:
        return {"tcp_health_check": {}}
    return {
        "http_health_check": {
            "path": upstream.health_path,
            "host": upstream.host.rstrip("."),
            "request_headers_to_add": [overwrite(HEADER_ROUTER, "1")],
        }
    }


def _absolute(host: str) -> str:
    """Return a DNS name with its final dot, without which a pod's resolver asks for four other names first."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".") + "."
    return host
