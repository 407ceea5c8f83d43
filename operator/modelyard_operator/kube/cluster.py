"""The verbs of reconcile on a real API server: reads come from the store, and what is there already is not written."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence

import aiohttp
from modelyard_runtime.contract import ROUTER_SIDECAR_PORT, RouterPath

from modelyard_operator.kube.connection import APPLY, JSON_PATCH, MERGE_PATCH, Conflict, Connection, NotFound
from modelyard_operator.kube.lease import is_held
from modelyard_operator.kube.ownership import applied_fields, has_field, owns, with_spec_taken_over, without_field
from modelyard_operator.kube.paths import path_of, watched_kinds
from modelyard_operator.kube.reflector import OnChange, Reflector
from modelyard_operator.kube.store import FIELD_MANAGER, Store, trimmed
from modelyard_operator.reconcile.verbs import Forbidden, Object, Rejected

__all__ = ["ANNOTATION_APPLIED", "ANNOTATION_OPERATOR", "KubeCluster"]

ANNOTATION_APPLIED = "modelyard.dev/applied"
"""On each child: the hash of what was applied, so that an operator that starts anew knows it."""

ANNOTATION_OPERATOR = "modelyard.dev/operator"
"""On each child: the namespace of the installation that applied it."""

_ROUTER_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_NO_VERSION = "1"
"""A resource version that no object has: an apply with it creates, or conflicts with what is there under that name."""
_REPLICAS = ("f:spec", "f:replicas")
_QUERY = {"fieldManager": FIELD_MANAGER}

_Key = tuple[str, str, str]


class KubeCluster:
    """Implements `reconcile.verbs.Cluster`.

    Args:
        connection: to the API server.
        http: a session for asking router pods, which are no part of the API.
        namespaces: the namespaces to watch; none means all.
        installation: the namespace of our Lease, which is put on each child.
    """

    def __init__(
        self,
        connection: Connection,
        http: aiohttp.ClientSession,
        namespaces: Sequence[str] = (),
        *,
        installation: str = "",
    ) -> None:
        self._installation = installation
        self._connection, self._http = connection, http
        self.store = Store()
        self._clusterwide = not namespaces
        page = asyncio.Lock()
        self._reflectors = [
            Reflector(connection, self.store, self._tell, kind=kind, namespace=namespace, selector=selector, page=page)
            for kind, selector in watched_kinds().items()
            for namespace in (namespaces or ("",))
        ]
        self._on_change: OnChange = lambda _kind, _obj, _deleted: None
        self._unwatched: set[_Key] = set()  # names of children that an object without our label has

    def _tell(self, kind: str, obj: Object, deleted: bool) -> None:
        self._on_change(kind, obj, deleted)

    async def run(self, on_change: OnChange) -> None:
        """Watch until cancelled; a watch that dies takes the others with it, loudly.

        Args:
            on_change: is told of each change of a watched object.
        """
        self._on_change = on_change
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())

    async def synced(self) -> None:
        """Wait until every kind has been listed: reconcile must not take what is not read yet for missing."""
        for reflector in self._reflectors:
            await reflector.synced.wait()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return the object, or None when there is none. Asks the API server only where another has a child's name."""
        stored = self.store.get(kind, namespace, name)
        key = (kind, namespace, name)
        if stored is not None:
            self._unwatched.discard(key)
            return stored
        if key not in self._unwatched:
            return None
        try:
            live = await self._connection.request("GET", path_of(kind, namespace, name), verb="get", kind=kind)
        except NotFound:
            self._unwatched.discard(key)
            return None
        return trimmed(kind, live)

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the objects that carry all these labels."""
        return self.store.select(kind, namespace, labels)

    async def apply(self, obj: Object) -> Object:
        """Bring an object to what is given, by server-side apply; return it as far as it is kept."""
        kind, metadata = obj["kind"], obj["metadata"]
        key = (kind, metadata["namespace"], metadata["name"])
        wanted = _marked(obj, self._installation)
        stored = self.store.get(*key)
        if stored is not None and _is_applied(stored, wanted):
            return stored
        if stored is not None and _lets_go_of_replicas(stored, wanted):
            await self._let_go_of_replicas(key)
        if stored is not None:
            wanted["metadata"]["uid"] = stored["metadata"]["uid"]  # not another that has the name by now
        elif key not in self._unwatched:
            wanted["metadata"]["resourceVersion"] = _NO_VERSION
        try:
            return await self._apply(wanted, verb="apply")
        except Conflict:
            self._unwatched.add(key)
            raise
        except Forbidden:
            raise
        except Rejected:
            # Perhaps for what others added to it: an emptyDir that is a hostPath as well, a port twice.
            if stored is None or not await self._take_over(key):
                raise
            return await self._apply(wanted, verb="apply")

    async def apply_status(self, obj: Object) -> None:
        """Write `obj["status"]` to the status subresource; a vanished object is not an error."""
        try:
            await self._apply(obj, "status", verb="apply_status")
        except NotFound:
            return

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Merge annotations into an object; a vanished object is not an error."""
        patch = {"metadata": {"annotations": dict(annotations)}}
        path = path_of(kind, namespace, name)
        try:
            live = await self._connection.request(
                "PATCH", path, verb="patch", kind=kind, body=patch, content_type=MERGE_PATCH, query=_QUERY
            )
        except NotFound:
            return
        self._remember(kind, live)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid, its dependents in the background; a vanished one is not an error."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        path = path_of(kind, namespace, name)
        try:
            await self._connection.request("DELETE", path, verb="delete", kind=kind, body=options)
        except NotFound:
            return

    async def other_operator(self, obj: Object) -> str | None:
        """Return which other installation, of those whose Lease is renewed, applied an object; None when none did."""
        holder = obj["metadata"].get("annotations", {}).get(ANNOTATION_OPERATOR, self._installation)
        if holder == self._installation:
            return None
        return str(holder) if await is_held(self._connection, holder) else None

    async def router_state(self, pod: Object) -> Object | None:
        """Ask a router pod what Envoy has acknowledged; None while it does not answer."""
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{ROUTER_SIDECAR_PORT}{RouterPath.APPLIED}"
        try:
            async with self._http.get(url, timeout=_ROUTER_TIMEOUT) as response:
                state = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    async def _apply(self, obj: Object, subresource: str = "", *, verb: str) -> Object:
        kind, metadata = obj["kind"], obj["metadata"]
        path = path_of(kind, metadata["namespace"], metadata["name"], subresource)
        query = {**_QUERY, "force": "true"}
        live = await self._connection.request(
            "PATCH", path, verb=verb, kind=kind, body=obj, content_type=APPLY, query=query
        )
        self._remember(kind, live)
        return trimmed(kind, live)

    async def _take_over(self, key: _Key) -> bool:
        """Make ours what others have set in an object of ours; return whether there was anything."""
        path, kind = path_of(*key), key[0]
        live = await self._connection.request("GET", path, verb="get", kind=kind)
        managed = live["metadata"].get("managedFields", [])
        taken = with_spec_taken_over(managed, FIELD_MANAGER)
        if taken == managed:
            return False
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": taken},
        ]
        await self._connection.request(
            "PATCH", path, verb="patch", kind=kind, body=patch, content_type=JSON_PATCH, query=_QUERY
        )
        return True

    async def _let_go_of_replicas(self, key: _Key) -> None:
        """Give up the number of pods as it is: an apply that no longer names a field of ours would reset it to 1."""
        path, kind = path_of(*key), key[0]
        live = await self._connection.request("GET", path, verb="get", kind=kind)
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {
                "op": "replace",
                "path": "/metadata/managedFields",
                "value": without_field(live["metadata"].get("managedFields", []), FIELD_MANAGER, _REPLICAS),
            },
        ]
        await self._connection.request(
            "PATCH", path, verb="patch", kind=kind, body=patch, content_type=JSON_PATCH, query=_QUERY
        )

    def _remember(self, kind: str, live: Object) -> None:
        scope = "" if self._clusterwide else live["metadata"]["namespace"]
        self.store.remember(kind, scope, live)


def _lets_go_of_replicas(stored: Object, wanted: Object) -> bool:
    """Return whether a Deployment's number of pods was ours and is to be others'; 0 is not left to them to wake."""
    if wanted["kind"] != "Deployment" or "replicas" in wanted["spec"] or not stored["spec"].get("replicas"):
        return False
    return has_field(applied_fields(stored, FIELD_MANAGER), _REPLICAS)


def _marked(obj: Object, installation: str) -> Object:
    """Return a copy that carries the hash of what it asks for, and who asks."""
    digest = hashlib.sha256(json.dumps([obj, installation], sort_keys=True).encode()).hexdigest()[:16]
    annotations = {**obj["metadata"].get("annotations", {}), ANNOTATION_APPLIED: digest}
    if installation:
        annotations[ANNOTATION_OPERATOR] = installation
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


def _is_applied(stored: Object, wanted: Object) -> bool:
    """Return whether an object is as it was when this was applied: asked for in the same words, and still all ours."""
    metadata = stored["metadata"]
    same = (
        metadata.get("annotations", {}).get(ANNOTATION_APPLIED) == wanted["metadata"]["annotations"][ANNOTATION_APPLIED]
    )
    return same and owns(applied_fields(stored, FIELD_MANAGER), wanted)
