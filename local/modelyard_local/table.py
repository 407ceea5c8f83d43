"""The tables of `get`: the columns that kubectl prints, computed as kubectl computes them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelyard_operator.api.kinds import API_GROUP, CUSTOM_KINDS

from modelyard_local.objects import Object, is_ready, is_terminating

__all__ = ["ResourceKind", "age", "find_kind", "json_path", "resource_kinds", "rows"]

_CONDITION = re.compile(r'^\[\?\(@\.(\w+)=="([^"]*)"\)\]')
_WORD = re.compile(r"^\.(\w+)")

_Cell = Callable[[Object, datetime], str]


@dataclass(frozen=True)
class ResourceKind:
    """A kind that `get` shows: how it is called, and its columns besides the name."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    group: str
    columns: tuple[tuple[str, _Cell], ...]
    wide: tuple[tuple[str, _Cell], ...] = ()

    @property
    def full_name(self) -> str:
        """The name before a slash, as kubectl writes it."""
        singular = self.kind.lower()
        return f"{singular}.{self.group}" if self.group else singular


def resource_kinds() -> list[ResourceKind]:
    """Return the kinds that `get` knows."""
    custom = [
        ResourceKind(
            kind.kind,
            kind.plural,
            (kind.short_name,),
            API_GROUP,
            tuple((column.name.upper(), _custom_cell(column.json_path, column.type)) for column in kind.columns),
        )
        for kind in CUSTOM_KINDS.values()
    ]
    by_age: tuple[str, _Cell] = ("AGE", _age_cell)
    return [
        *custom,
        ResourceKind(
            "Pod",
            "pods",
            ("po",),
            "",
            (("READY", _pod_ready), ("STATUS", _pod_status), ("RESTARTS", _pod_restarts), by_age),
            (("IP", lambda pod, _now: pod.get("status", {}).get("podIP", "<none>")),),
        ),
        ResourceKind(
            "Service",
            "services",
            ("svc",),
            "",
            (
                ("TYPE", lambda service, _now: service["spec"].get("type", "ClusterIP")),
                ("CLUSTER-IP", lambda service, _now: service["spec"].get("clusterIP", "<none>")),
                ("EXTERNAL-IP", lambda _service, _now: "<none>"),
                ("PORT(S)", _service_ports),
                by_age,
            ),
        ),
        ResourceKind(
            "Deployment",
            "deployments",
            ("deploy",),
            "apps",
            (
                (
                    "READY",
                    lambda obj, _now: f"{_count(obj, 'readyReplicas')}/{obj['spec']['replicas']}",
                ),
                ("UP-TO-DATE", lambda obj, _now: _count(obj, "updatedReplicas")),
                ("AVAILABLE", lambda obj, _now: _count(obj, "availableReplicas")),
                by_age,
            ),
        ),
        ResourceKind(
            "ConfigMap",
            "configmaps",
            ("cm",),
            "",
            (("DATA", lambda obj, _now: str(len(obj.get("data", {})))), by_age),
        ),
    ]


def find_kind(word: str) -> ResourceKind | None:
    """Return the kind that a word names: singular, plural, short, or with its group."""
    wanted = word.lower()
    for kind in resource_kinds():
        names = (kind.kind.lower(), kind.plural, *kind.short_names)
        if wanted in names or wanted in {f"{name}.{kind.group}" for name in names[:2]}:
            return kind
    return None


def rows(
    kind: ResourceKind, objects: Sequence[Object], now: datetime, *, wide: bool
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a table."""
    columns = (*kind.columns, *(kind.wide if wide else ()))
    header = ["NAME", *(name for name, _ in columns)]
    return header, [[obj["metadata"]["name"], *(cell(obj, now) for _, cell in columns)] for obj in objects]


def json_path(obj: Any, path: str) -> Any:
    """Return what a printer column's path points at, or None: `.a.b` and `[?(@.type=="Ready")]`."""
    value, rest = obj, path
    while rest and value is not None:
        if word := _WORD.match(rest):
            value = value.get(word[1]) if isinstance(value, dict) else None
        elif word := _CONDITION.match(rest):
            items = value if isinstance(value, list) else []
            value = next((item for item in items if item.get(word[1]) == word[2]), None)
        else:
            raise ValueError(f"{path!r}: only names and conditions are understood")
        rest = rest[word.end() :]
    return value


def age(since: str, now: datetime) -> str:
    """Return a time span as kubectl shows ages (`duration.HumanDuration` of k8s.io/apimachinery)."""
    began = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = max(0, int((now - began).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"
    return f"{days // 365}y"


def _custom_cell(path: str, type_: str) -> _Cell:
    def cell(obj: Object, now: datetime) -> str:
        value = json_path(obj, path)
        if value is None:
            return ""
        return age(value, now) if type_ == "date" else str(value)

    return cell


def _age_cell(obj: Object, now: datetime) -> str:
    return age(obj["metadata"]["creationTimestamp"], now)


def _count(obj: Object, name: str) -> str:
    return str(obj.get("status", {}).get(name, 0))


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    sidecars = {
        container["name"]
        for container in pod["spec"].get("initContainers", [])
        if container.get("restartPolicy") == "Always"
    }
    inits: list[Object] = [entry for entry in status.get("initContainerStatuses", []) if entry["name"] in sidecars]
    return [*inits, *status.get("containerStatuses", [])]


def _pod_ready(pod: Object, _now: datetime) -> str:
    sidecars = [entry for entry in pod["spec"].get("initContainers", []) if entry.get("restartPolicy") == "Always"]
    total = len(pod["spec"]["containers"]) + len(sidecars)
    return f"{sum(container['ready'] for container in _containers(pod))}/{total}"


def _pod_restarts(pod: Object, _now: datetime) -> str:
    status = pod.get("status", {})
    everything = (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    return str(sum(container["restartCount"] for container in everything))


def _pod_status(pod: Object, _now: datetime) -> str:
    if is_terminating(pod):
        return "Terminating"
    status = pod.get("status", {})
    inits = status.get("initContainerStatuses", [])
    for index, container in enumerate(inits):
        if container["started"] or container["state"].get("terminated", {}).get("exitCode") == 0:
            continue
        reason = _unfinished(container)
        return f"Init:{reason}" if reason else f"Init:{index}/{len(inits)}"
    for container in status.get("containerStatuses", []):
        if reason := _unfinished(container):
            return reason
    if is_ready(pod):
        return "Running"
    return str(status.get("phase", "Pending"))


def _unfinished(container: Object) -> str | None:
    """Return why a container does not run, or None."""
    state = container["state"]
    if "terminated" in state:
        return str(state["terminated"]["reason"])
    reason = state.get("waiting", {}).get("reason")
    return None if reason == "PodInitializing" else reason


def _service_ports(service: Object, _now: datetime) -> str:
    def one(port: Object) -> str:
        stands_for = f"{port['port']}:{port['nodePort']}" if "nodePort" in port else str(port["port"])
        return f"{stands_for}/{port.get('protocol', 'TCP')}"

    return ",".join(map(one, service["spec"]["ports"]))
