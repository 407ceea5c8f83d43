"""OpenAPI of health and metrics: written by hand, since FastAPI sees neither."""

from __future__ import annotations

from typing import Any

from modelyard_runtime.contract import METRICS_PATH, PATH_LIVE, PATH_READY, PATH_SERVING

__all__ = ["HEALTH_PATHS", "HEALTH_SCHEMAS"]

_ALIVE = "Whether the process answers at all."
_READY = "Whether new requests should come here: from warm-up to SIGTERM."
_READY_FOR = f"{_READY} For routers and balancers."
_SERVING = (
    "Whether requests are answered: from warm-up until the listener closes. The kubelet's readiness probe.\n\n"
    "Green while draining, so that the last requests to a single replica still reach it."
)

HEALTH_SCHEMAS: dict[str, Any] = {
    "Health": {
        "title": "Health",
        "description": "`ready`, `loading`, `failed`, `unloaded` or `draining` (`live` for the process alone), and "
        "each model's state.\n\nModels that were unloaded don't count, unless all are.",
        "type": "object",
        "required": ["status", "models"],
        "properties": {
            "status": {"title": "Status", "type": "string"},
            "models": {"title": "Models", "type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "ServerHealth": {
        "title": "ServerHealth",
        "description": "Whether the process lives, and whether it takes requests.",
        "type": "object",
        "required": ["live", "ready"],
        "properties": {
            "live": {"title": "Live", "type": "boolean"},
            "ready": {"title": "Ready", "type": "boolean"},
        },
    },
}


def _get(tag: str, name: str, summary: str, description: str, responses: dict[str, Any]) -> dict[str, Any]:
    operation = {"tags": [tag], "summary": summary, "description": description, "operationId": name}
    return {"get": {**operation, "responses": responses}}


def _answers(schema: str, not_now: str = "") -> dict[str, Any]:
    """`not_now` is what 503 means; empty: there is no such answer."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    answers = {"200": {"description": "Successful Response", "content": content}}
    return {**answers, "503": {"description": not_now, "content": content}} if not_now else answers


_METRICS: dict[str, Any] = {
    "200": {
        "description": "Prometheus text; OpenMetrics or JSON when Accept asks for it.",
        "content": {"text/plain": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}},
    }
}
_OF_ALL = "Return the metrics of this server, of all its workers."
_HEALTH = _answers("Health", "Not now.")
_HEALTH_V2 = _answers("ServerHealth", "Service Unavailable")

HEALTH_PATHS: dict[str, Any] = {
    PATH_LIVE: _get("health", "live_health_live_get", "Live", _ALIVE, _answers("Health")),
    PATH_READY: _get("health", "ready_health_ready_get", "Ready", _READY_FOR, _HEALTH),
    "/health": _get("health", "ready_health_get", "Ready", _READY_FOR, _HEALTH),
    PATH_SERVING: _get("health", "serving_health_serving_get", "Serving", _SERVING, _HEALTH),
    METRICS_PATH: _get("metrics", "read_metrics_metrics_get", "Read Metrics", _OF_ALL, _METRICS),
    "/v2/health/live": _get("v2", "server_live_v2_health_live_get", "Server Live", _ALIVE, _answers("ServerHealth")),
    "/v2/health/ready": _get("v2", "server_ready_v2_health_ready_get", "Server Ready", _READY, _HEALTH_V2),
}
