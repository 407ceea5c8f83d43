"""Envoy's bootstrap for a router: the listener, the admin socket, and what the router says when no model answered.

It is the same for every spec, because Envoy reads it only when it starts. What depends on the pod stands in it as a
placeholder, `${MODELYARD_HOST}` or `${MODELYARD_RUN}`; the sidecar fills it in.
"""

from __future__ import annotations

from typing import Any

from modelyard_runtime.contract import ROUTER_HTTP_PORT, RouterFile

__all__ = [
    "ENVOY_API",
    "HOST_PLACEHOLDER",
    "ROUTER",
    "RUN_PLACEHOLDER",
    "extension",
    "overwrite",
    "render_bootstrap",
]

HOST_PLACEHOLDER = "${MODELYARD_HOST}"  # the address to listen on
RUN_PLACEHOLDER = "${MODELYARD_RUN}"  # the folder that Envoy and its sidecar share

ROUTER = "router"  # names the listener, the route configuration and the prefix of Envoy's statistics
ENVOY_API = "type.googleapis.com/envoy"

_Json = dict[str, Any]


def render_bootstrap(name: str) -> dict[str, Any]:
    """Return the bootstrap of an ABTest's routers, with placeholders for what depends on the pod."""
    return {
        "node": {"id": name, "cluster": name},
        "admin": {"address": {"pipe": {"path": f"{RUN_PLACEHOLDER}/admin.sock"}}},
        "dynamic_resources": {"cds_config": _file_source(RouterFile.CDS)},
        "static_resources": {
            "listeners": [
                {
                    "name": ROUTER,
                    "address": {"socket_address": {"address": HOST_PLACEHOLDER, "port_value": ROUTER_HTTP_PORT}},
                    "filter_chains": [{"filters": [_connection_manager()]}],
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections="50000",
                )
            ]
        },
    }


def _file_source(file: RouterFile) -> _Json:
    """Return a source that rereads a file when it is renamed into place.

    Each file has a folder of its own: Envoy rereads a file at any rename in the folder that it watches.
    """
    folder = f"{RUN_PLACEHOLDER}/{file.value.removesuffix('.json')}"
    source = {"path": f"{folder}/{file.value}", "watched_directory": {"path": folder}}
    # Wait for a first configuration as long as it takes: a listener without routes would answer 404.
    return {"path_config_source": source, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _connection_manager() -> _Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{ENVOY_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": ROUTER,
            "codec_type": "AUTO",
            "rds": {"route_config_name": ROUTER, "config_source": _file_source(RouterFile.RDS)},
            # Nobody is inside (an empty list would mean all private addresses): every client's request id and Envoy's
            # control headers are dropped, and its address goes to the end of x-forwarded-for.
            "use_remote_address": True,
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
            "generate_request_id": True,
            "preserve_external_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
            "request_headers_timeout": "30s",
            "common_http_protocol_options": {"idle_timeout": "300s"},
            "local_reply_config": _local_replies(),
            "http_filters": [
                extension("envoy.filters.http.header_mutation", "filters.http.header_mutation.v3.HeaderMutation"),
                extension("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
            ],
        },
    }


def _local_replies() -> _Json:
    """Return what the router says when no model answered; by Envoy's response flags, the first match counts.

    Envoy's answer to the readiness probe passes here too: it is the one with status 200.
    """
    variant = "variant %UPSTREAM_CLUSTER_RAW%"
    replies = [
        (["UH"], f"no ready pod of {variant}: see the status of its ModelDeployment, and try again", True),
        (["UF"], f"no connection to a pod of {variant}: try again", True),
        (["UC", "UR", "LR"], f"the connection to a pod of {variant} broke off before its answer: try again", True),
        (["UO"], f"too many requests to {variant} at once: try again later", True),
        (["UT"], f"{variant} gave no answer within its serving.limits.timeout", False),
        (["NC", "NR"], "the router has no route for this request: see the conditions of its ABTest", False),
    ]
    ready = {
        "status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": 200, "runtime_key": "ready"}}}
    }
    mappers: list[_Json] = [
        {"filter": ready, "body_format_override": {"json_format": {"status": "%LOCAL_REPLY_BODY%"}}}
    ]
    for flags, message, retry in replies:
        mapper: _Json = {
            "filter": {"response_flag_filter": {"flags": flags}},
            "body_format_override": {"json_format": {"error": message}},
        }
        if retry:
            mapper["headers_to_add"] = [overwrite("retry-after", "1")]
        mappers.append(mapper)
    return {"mappers": mappers, "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}}


def extension(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """Return one of Envoy's extensions: the name it is known by, and its configuration of the given type."""
    return {"name": name, "typed_config": {"@type": f"{ENVOY_API}.extensions.{kind}", **fields}}


def overwrite(key: str, value: str) -> dict[str, Any]:
    """Return a header that replaces any of its name."""
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
