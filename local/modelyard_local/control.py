"""The control socket: what the commands ask of a running installation, as JSON over HTTP on a unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from modelyard_operator.api.kinds import CUSTOM_KINDS, parse_manifest
from modelyard_operator.api.schema import InvalidManifest

from modelyard_local.errors import LocalError
from modelyard_local.kubelet import Kubelet
from modelyard_local.objects import Key, Object, controller_uid
from modelyard_local.store import Store
from modelyard_local.table import ResourceKind, find_kind, resource_kinds, rows

__all__ = ["ControlServer"]

_DEFAULT_NAMESPACE = "default"


class _Refused(Exception):
    """Becomes an answer with this status."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.answer = web.json_response({"error": message, **more}, status=status)


class ControlServer:
    """Answers on a socket that only this user can open."""

    def __init__(self, store: Store, kubelet: Kubelet, stop: asyncio.Event, now: Callable[[], datetime]) -> None:
        self._store, self._kubelet, self._stop, self._now = store, kubelet, stop, now
        self._runner: web.AppRunner | None = None
        self._path: Path | None = None

    async def start(self, path: Path) -> None:
        """Listen; a socket that an earlier run left is replaced."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.get("/status", self._status),
                web.post("/apply", self._apply),
                web.get("/objects", self._objects),
                web.post("/delete", self._delete),
                web.get("/logs", self._logs),
                web.post("/down", self._down),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, _listen(path)).start()
        self._path = path

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._path is not None:
            _forget(self._path)

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response({"pid": os.getpid()})

    async def _down(self, _request: web.Request) -> web.Response:
        self._stop.set()
        return web.json_response({"pid": os.getpid()})

    async def _apply(self, request: web.Request) -> web.Response:
        asked = await request.json()
        manifest = asked["manifest"]
        kind = manifest.get("kind")
        if kind not in CUSTOM_KINDS:
            raise _Refused(
                400, f"{kind} is not a kind that local mode applies: it takes {' and '.join(CUSTOM_KINDS)} only"
            )
        try:
            parse_manifest(manifest)
        except InvalidManifest as error:
            errors = [{"path": entry.path, "message": entry.message} for entry in error.errors]
            raise _Refused(422, "is invalid", errors=errors) from None
        live, result = self._store.put(_as_stored(manifest, asked.get("namespace") or _DEFAULT_NAMESPACE))
        return web.json_response({"result": result, "object": live, "name": _full_name(live)})

    async def _objects(self, request: web.Request) -> web.Response:
        query = request.query
        name = query.get("name")
        namespace = None if query.get("all") else query.get("namespace") or _DEFAULT_NAMESPACE
        tables = []
        for kind in _kinds(query.get("kind", "modelyard")):
            objects = self._store.select(kind.kind, namespace)
            if name is not None:
                objects = [obj for obj in objects if obj["metadata"]["name"] == name]
            header, cells = rows(kind, objects, self._now(), wide=bool(query.get("wide")))
            if name is not None and not objects:
                raise _Refused(404, _not_found(kind, name))
            tables.append(
                {"kind": kind.full_name, "plural": kind.plural, "header": header, "rows": cells, "objects": objects}
            )
        return web.json_response({"tables": tables})

    async def _delete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        (kind,) = _kinds(asked["kind"], one=True)
        if kind.kind not in (*CUSTOM_KINDS, "Pod"):
            raise _Refused(400, f"a {kind.kind} belongs to a ModelDeployment or ABTest: delete that")
        key = Key(kind.kind, asked.get("namespace") or _DEFAULT_NAMESPACE, asked["name"])
        if not self._store.remove(key):
            raise _Refused(404, _not_found(kind, key.name))
        return web.json_response({"name": f'{kind.full_name} "{key.name}"'})

    async def _logs(self, request: web.Request) -> web.Response:
        query = request.query
        namespace = query.get("namespace") or _DEFAULT_NAMESPACE
        pods = self._pods_of(query["name"], namespace)
        if not pods:
            raise _Refused(404, f"no pod, ModelDeployment or ABTest {query['name']} runs in namespace {namespace}")
        asked = query.get("container")
        found = []
        for pod in pods:
            containers = [
                entry["name"] for entry in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])
            ]
            if asked is not None and asked not in containers:
                raise _Refused(404, f"container {asked} is none of {', '.join(containers)}")
            key = Key("Pod", namespace, pod["metadata"]["name"])
            for container in [asked] if asked else containers:
                path = self._kubelet.log_of(key, container)
                if path is not None:
                    found.append({"pod": key.name, "container": container, "path": str(path)})
        return web.json_response({"logs": found})

    def _pods_of(self, name: str, namespace: str) -> list[Object]:
        pods = self._store.select("Pod", namespace)
        named = [pod for pod in pods if pod["metadata"]["name"] == name]
        if named:
            return named
        owners = {
            obj["metadata"]["uid"]
            for kind in (*CUSTOM_KINDS, "Deployment")
            for obj in self._store.select(kind, namespace)
            if obj["metadata"]["name"] == name
        }
        deployments = {
            obj["metadata"]["uid"]
            for obj in self._store.select("Deployment", namespace)
            if controller_uid(obj) in owners
        }
        return [pod for pod in pods if controller_uid(pod) in owners | deployments]


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _as_stored(manifest: Object, namespace: str) -> Object:
    """Return what is kept of a user's manifest: identity is the store's to give, status the operator's."""
    metadata = manifest["metadata"]
    kept = {name: metadata[name] for name in ("name", "labels", "annotations") if metadata.get(name)}
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {**kept, "namespace": metadata.get("namespace") or namespace},
        "spec": manifest["spec"],
    }


def _kinds(word: str, *, one: bool = False) -> list[ResourceKind]:
    if not one and word in ("modelyard", "all"):
        shown = resource_kinds()
        return [kind for kind in shown if word == "all" or kind.kind in CUSTOM_KINDS]
    kind = find_kind(word)
    if kind is None:
        known = ", ".join(kind.plural for kind in resource_kinds())
        raise _Refused(400, f"{word} is not a kind that is known here: {known}")
    return [kind]


def _full_name(obj: Object) -> str:
    kind = find_kind(obj["kind"])
    return f"{kind.full_name if kind else obj['kind']}/{obj['metadata']['name']}"


def _not_found(kind: ResourceKind, name: str) -> str:
    plural = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    return f'{plural} "{name}" not found'


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refused as refused:
        return refused.answer
    except LocalError as error:
        return web.json_response({"error": str(error)}, status=500)
    except (KeyError, json.JSONDecodeError) as error:
        return web.json_response({"error": f"a request that is not understood: {error}"}, status=400)
