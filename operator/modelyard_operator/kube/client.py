"""The verbs on a real API server, over the official client's asyncio flavour.

Objects go through as plain dicts: the typed models of the client would drop fields newer than the client itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException
from modelyard_runtime.contract import ROUTER_SIDECAR_PORT, RouterPath

from modelyard_operator.kube.paths import path_of
from modelyard_operator.reconcile.verbs import Forbidden, Object, Rejected, Unavailable

__all__ = ["FIELD_MANAGER", "KubeCluster"]

FIELD_MANAGER = "modelyard"
_TIMEOUT = 30.0
_ROUTER_TIMEOUT = 2.0
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class KubeCluster:
    """Implements `reconcile.verbs.Cluster`.

    Args:
        api: a client that is configured for the cluster.
        http: a session for asking router pods, which are no part of the API.
        observe: is told of each request's verb and kind.
    """

    def __init__(
        self,
        api: ApiClient,
        http: aiohttp.ClientSession,
        observe: Callable[[str, str], None] = lambda _verb, _kind: None,
    ) -> None:
        self._api = api
        self._http = http
        self._observe = observe

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return the live object, or None when there is none."""
        self._observe("get", kind)
        status, body = await self._request("GET", path_of(kind, namespace, name))
        return None if status == 404 else _checked(status, body)

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the live objects that carry all these labels."""
        self._observe("list", kind)
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        status, body = await self._request("GET", path_of(kind, namespace), query={"labelSelector": selector})
        items: list[Object] = _checked(status, body)["items"]
        for item in items:  # lists leave out what each item is
            item.setdefault("kind", kind)
        return items

    async def apply(self, obj: Object) -> Object:
        """Create or change an object by server-side apply; return it live."""
        self._observe("apply", obj["kind"])
        metadata = obj["metadata"]
        path = path_of(obj["kind"], metadata["namespace"], metadata["name"])
        return _checked(*await self._apply(path, obj))

    async def apply_status(self, obj: Object) -> None:
        """Write `obj["status"]` to the status subresource; a vanished object is not an error."""
        self._observe("apply_status", obj["kind"])
        metadata = obj["metadata"]
        status, body = await self._apply(path_of(obj["kind"], metadata["namespace"], metadata["name"], "status"), obj)
        if status != 404:
            _checked(status, body)

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Merge annotations into an object; a vanished object is not an error."""
        self._observe("patch", kind)
        patch = {"metadata": {"annotations": dict(annotations)}}
        path = path_of(kind, namespace, name)
        status, body = await self._request("PATCH", path, body=patch, content_type=_MERGE, query=_manager())
        if status != 404:
            _checked(status, body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid, its dependents in the background; a vanished one is not an error."""
        self._observe("delete", kind)
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        status, body = await self._request("DELETE", path_of(kind, namespace, name), body=options)
        if status != 404:
            _checked(status, body)

    async def router_state(self, pod: Object) -> Object | None:
        """Ask a router pod what Envoy has acknowledged; None while it does not answer."""
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{ROUTER_SIDECAR_PORT}{RouterPath.APPLIED}"
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(total=_ROUTER_TIMEOUT)) as response:
                state = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    async def _apply(self, path: str, obj: Object) -> tuple[int, Any]:
        return await self._request("PATCH", path, body=obj, content_type=_APPLY, query=_manager() | {"force": "true"})

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*request, _request_timeout=_TIMEOUT)
            text = await response.read()
            return response.status, json.loads(text) if text else {}
        except ApiException as error:
            return error.status or 0, {"message": error.body or error.reason}
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(
                f"the API server did not answer {method} {path}: {error or type(error).__name__}"
            ) from error


def _manager() -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER}


def _checked(status: int, body: Any) -> Object:
    """Return a good answer's body; raise what a bad one means to reconcile."""
    if 200 <= status < 300:
        result: Object = body
        return result
    message = body.get("message", "") if isinstance(body, dict) else str(body)
    if status == 403:
        # Also what a namespace that is being deleted answers to creations: both pass once somebody acts.
        raise Forbidden(message)
    if status in (400, 404, 405, 413, 415, 422):
        raise Rejected(message)
    raise Unavailable(f"the API server answered {status}: {message}")
