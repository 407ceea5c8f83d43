"""The pods behind a Service. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from modelyard_local.objects import HEADLESS, Object, is_ready, is_terminating, matches
from modelyard_local.probes import port_number

__all__ = ["Endpoint", "endpoints_of", "is_headless", "ready_addresses"]


class Endpoint(NamedTuple):
    """The address and port of one pod."""

    address: str
    port: int


def is_headless(service: Object) -> bool:
    """Return whether a Service has no address of its own."""
    return bool(service["spec"].get("clusterIP") == HEADLESS)


def endpoints_of(service: Object, port: Object, pods: Iterable[Object]) -> list[Endpoint]:
    """Return where connections to a Service's port may go, in a stable order.

    As kube-proxy does: pods on their way out count only while no other is ready, and only those that still serve.
    """
    ready = [pod for pod in _selected(service, pods) if is_ready(pod)]
    staying = [pod for pod in ready if not is_terminating(pod)]
    found = []
    for pod in staying or ready:
        number = _target_port(port, pod)
        if number is not None:
            found.append(Endpoint(pod["status"]["podIP"], number))
    return sorted(found)


def ready_addresses(service: Object, pods: Iterable[Object]) -> list[str]:
    """Return what the DNS answers for a headless Service: the pods that are ready and stay."""
    selected = _selected(service, pods)
    return sorted(pod["status"]["podIP"] for pod in selected if is_ready(pod) and not is_terminating(pod))


def _selected(service: Object, pods: Iterable[Object]) -> list[Object]:
    selector = service["spec"].get("selector")
    if not selector:
        return []
    namespace = service["metadata"]["namespace"]
    return [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == namespace and matches(pod, selector) and pod.get("status", {}).get("podIP")
    ]


def _target_port(port: Object, pod: Object) -> int | None:
    ports = [entry for container in pod["spec"]["containers"] for entry in container.get("ports", [])]
    try:
        return port_number(port["targetPort"] if "targetPort" in port else port["port"], ports)
    except KeyError:
        return None
