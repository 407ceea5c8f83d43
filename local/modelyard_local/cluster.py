"""The verbs of reconcile, on the embedded store in place of an API server."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aiohttp
from modelyard_operator.reconcile.verbs import Object, Rejected
from modelyard_runtime.contract import ROUTER_SIDECAR_PORT, RouterPath

from modelyard_local.objects import Key, key_of, owner_uids
from modelyard_local.store import Store
from modelyard_local.unsupported import unsupported_in

__all__ = ["LocalCluster"]

_SIDECAR_SECONDS = 2.0


class LocalCluster:
    """Implements `modelyard_operator.reconcile.verbs.Cluster`.

    `apply` replaces a child wholesale: there is one writer, so there is nothing to merge.
    """

    def __init__(self, store: Store, applied: Callable[[Object], None] = lambda _obj: None) -> None:
        self._store = store
        self._applied = applied

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return the live object, or None when there is none."""
        return self._store.find(Key(kind, namespace, name))

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the live objects that carry all these labels."""
        return self._store.select(kind, namespace, labels)

    async def apply(self, obj: Object) -> Object:
        """Create or replace a child; return it live.

        Raises:
            Rejected: its owner is gone. A cluster would take the child, and its garbage collector would delete it.
        """
        owners = owner_uids(obj)
        if owners and not all(map(self._store.has_uid, owners)):
            raise Rejected(f"the owner of {key_of(obj)} was deleted meanwhile")
        self._applied(obj)
        if unsupported_in(obj) == [obj["kind"]]:
            return obj
        if obj["kind"] == "Deployment":  # an API server's default; what there is stays when it is asked for no longer
            before = self._store.find(key_of(obj))
            obj = {**obj, "spec": {"replicas": before["spec"]["replicas"] if before else 1, **obj["spec"]}}
        live, _ = self._store.put(obj)
        return live

    async def apply_status(self, obj: Object) -> None:
        """Write `obj["status"]`; a vanished object, or another of its name, is not an error."""
        self._store.put_status(key_of(obj), obj["metadata"]["uid"], obj["status"])

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Merge annotations into an object; a vanished object is not an error."""
        self._store.annotate(Key(kind, namespace, name), annotations)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid and its dependents; a vanished one is not an error."""
        self._store.remove(Key(kind, namespace, name), uid)

    async def other_operator(self, _obj: Object) -> str | None:
        """Return None: nobody else has this store."""
        return None

    async def router_state(self, pod: Object) -> Object | None:
        """Ask a router pod what Envoy has acknowledged: `{"version", "error"}`; None while it does not answer."""
        host = pod.get("status", {}).get("podIP")
        if host is None:
            return None
        try:
            url = f"http://{host}:{ROUTER_SIDECAR_PORT}{RouterPath.APPLIED}"
            async with aiohttp.request("GET", url, timeout=aiohttp.ClientTimeout(total=_SIDECAR_SECONDS)) as response:
                state = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return state if isinstance(state, dict) else None
