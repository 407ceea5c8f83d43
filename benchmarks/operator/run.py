"""What the operator costs: time, requests, CPU and memory, beside bare creation of the same objects by the same client.

A real etcd, API server, controller-manager and scheduler; nodes by KWOK. One run is three rounds on one control plane:
bare creation, the operator, bare creation again, since machines drift. The API server's audit log counts requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from modelyard_cluster.control_plane import ControlPlane
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.kube.connection import Connection, connect
from modelyard_operator.kube.paths import collection_path
from modelyard_operator.manifests.modeldeployment import render_model_deployment
from modelyard_operator.manifests.settings import Settings

from benchmarks.operator.simulation import AuditLog, Operator, Request, simulation, wait_for

Object = dict[str, Any]

_AGENT = "modelyard-operator"
_CHILDREN = ("services", "deployments")
_WORKERS = 8
_QUIET_SECONDS = 6.0


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="scripts/bench operator", description=__doc__)
    parser.add_argument("--cache", type=Path, help="not used: there is nothing to install")
    parser.add_argument("--environments", action="store_true", help="print the environments to install: none")
    parser.add_argument("--objects", type=int, default=1000, help="ModelDeployments (default 1000)")
    parser.add_argument("--foreign", type=int, default=10_000, help="pods of others at the restart (default 10000)")
    parser.add_argument("--steady", type=float, default=60.0, help="seconds of doing nothing (default 60)")
    parser.add_argument("--bare", type=int, default=2, help="rounds of bare creation, before and after (default 2)")
    arguments = parser.parse_args()
    if arguments.environments:
        return
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder, simulation(Path(folder)) as control_plane:
        print(json.dumps(measure(control_plane, arguments), indent=1))


def measure(control_plane: ControlPlane, arguments: argparse.Namespace) -> Object:
    """Run the rounds; return the figures."""
    count = arguments.objects
    bare = [bare_seconds(control_plane, "bare-before", count)] if arguments.bare else []
    operated = operator_round(control_plane, arguments)
    if arguments.bare > 1:
        bare.append(bare_seconds(control_plane, "bare-after", count))
    reference = sum(bare) / len(bare) if bare else None
    ratio = operated["last_child_seconds"] / reference if reference else None
    return {"objects": count, "bare_seconds": bare, "last_child_to_bare": ratio, **operated}


def bare_seconds(control_plane: ControlPlane, namespace: str, count: int) -> float:
    """Return the seconds that the same children take when nothing but their creation is done."""
    make_namespace(control_plane, namespace)
    seconds = asyncio.run(_timed(create_children(control_plane, namespace, count)))
    wait_for(lambda: pods_ready(control_plane, namespace) >= count, "pods of bare Deployments")
    clear(control_plane, namespace)
    return seconds


def operator_round(control_plane: ControlPlane, arguments: argparse.Namespace) -> Object:
    """Have the operator make everything, do nothing, and start anew."""
    count, namespace = arguments.objects, "operated"
    make_namespace(control_plane, namespace)
    audit_log = control_plane.state_dir / "audit.log"
    log = control_plane.state_dir / "operator.log"
    operator = Operator(control_plane, log, port=18080)
    AuditLog(audit_log, _AGENT).wait_until_quiet(2.0)
    idle_mib = operator.memory_mib()
    audit = AuditLog(audit_log, _AGENT)
    begun, cpu = time.time(), operator.cpu_seconds()
    asyncio.run(create_custom(control_plane, namespace, count))
    created = time.time() - begun
    wait_for(lambda: all_ready(control_plane, namespace, count), "Ready ModelDeployments")
    requests = audit.wait_until_quiet(_QUIET_SECONDS)
    children = [each.time for each in requests if each.resource in _CHILDREN and each.code == 201]
    last_child = max(children)
    result: Object = {
        "create_seconds": created,
        "last_child_seconds": last_child - begun,
        "children": len(children),
        "requests_until_last_child": per_object([each for each in requests if each.time <= last_child], count),
        "requests_until_quiet": per_object(requests, count),
        "by_kind": by_kind(requests),
        "quiet_seconds": max(each.time for each in requests if each.verb != "watch") - begun,
        "cpu_seconds": operator.cpu_seconds() - cpu,
        "idle_mib": idle_mib,
        "peak_mib": operator.peak_mib(),
    }
    audit = AuditLog(audit_log, _AGENT)
    time.sleep(arguments.steady)
    result["steady"] = by_kind(audit.read())
    operator.stop()

    make_foreign_pods(control_plane, arguments.foreign)
    audit = AuditLog(audit_log, _AGENT)
    operator = Operator(control_plane, log, port=18080)
    requests = audit.wait_until_quiet(_QUIET_SECONDS)
    result["restart"] = {
        "requests": len(requests),
        "writes": sum(each.writes for each in requests),
        "by_kind": by_kind(requests),
        "cpu_seconds": operator.cpu_seconds(),
        "peak_mib_with_foreign_pods": operator.peak_mib(),
    }
    operator.stop()
    clear(control_plane, namespace)
    return result


def per_object(requests: list[Request], count: int) -> float:
    """Return requests an object, without the watches and the Lease that an operator without objects has as well."""
    return sum(each.verb != "watch" and each.resource != "leases" for each in requests) / count


def by_kind(requests: list[Request]) -> dict[str, int]:
    """Return how many requests there were of each verb and resource."""
    return dict(Counter(f"{each.verb} {each.resource}" for each in requests).most_common())


def custom(number: int, namespace: str) -> Object:
    """Return the manifest of a ModelDeployment."""
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"model-{number}", "namespace": namespace},
        "spec": {"model": {"uri": f"s3://models/model-{number}/1"}, "replicas": 1},
    }


def children_of(number: int, namespace: str) -> list[Object]:
    """Return what the operator makes of that manifest, without its owner."""
    owner = custom(number, namespace)
    owner["metadata"]["uid"] = ""
    settings = Settings(
        runtime_image="modelyard/runtime:bench",
        router_image="modelyard/router:bench",
        envoy_image="modelyard/envoy:bench",
    )
    children = render_model_deployment(owner, ModelDeploymentSpec.parse(owner["spec"]), settings)
    for child in children:
        child["metadata"].pop("ownerReferences")
    return children


async def create_children(control_plane: ControlPlane, namespace: str, count: int) -> None:
    """Create the children of so many ModelDeployments, as many at once as the operator does."""
    numbers = iter(range(count))

    async def work(connection: Connection) -> None:
        for number in numbers:
            *services, deployment = children_of(number, namespace)
            await asyncio.gather(*(create(connection, child) for child in services))
            await create(connection, deployment)

    async with connect(_unobserved, kubeconfig=str(control_plane.kubeconfig), agent="bench") as connection:
        await asyncio.gather(*(work(connection) for _ in range(_WORKERS)))


async def create_custom(control_plane: ControlPlane, namespace: str, count: int) -> None:
    """Create so many ModelDeployments."""
    numbers = iter(range(count))

    async def work(connection: Connection) -> None:
        for number in numbers:
            await create(connection, custom(number, namespace))

    async with connect(_unobserved, kubeconfig=str(control_plane.kubeconfig), agent="bench") as connection:
        await asyncio.gather(*(work(connection) for _ in range(_WORKERS)))


async def create(connection: Connection, obj: Object) -> None:
    """Create one object."""
    path = collection_path(obj["kind"], obj["metadata"]["namespace"])
    await connection.request("POST", path, verb="create", kind=obj["kind"], body=obj)


def _unobserved(_verb: str, _kind: str) -> None:
    """Take no note of requests."""


async def _timed(work: Any) -> float:
    begun = time.monotonic()
    await work
    return time.monotonic() - begun


def make_namespace(control_plane: ControlPlane, name: str) -> None:
    """Make a namespace."""
    control_plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


def clear(control_plane: ControlPlane, namespace: str) -> None:
    """Delete a namespace and wait until nothing of it is left to do."""
    control_plane.kubectl("delete", "namespace", namespace, timeout=900)


def pods_ready(control_plane: ControlPlane, namespace: str) -> int:
    """Return how many pods are Ready."""
    text = control_plane.kubectl("-n", namespace, "get", "pods", "-o", "jsonpath={.items[*].status.phase}")
    return text.split().count("Running")


def all_ready(control_plane: ControlPlane, namespace: str, count: int) -> bool:
    """Return whether all ModelDeployments are Ready."""
    path = "-o=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    return control_plane.kubectl("-n", namespace, "get", "mdep", path).split().count("True") == count


def make_foreign_pods(control_plane: ControlPlane, count: int) -> None:
    """Make pods that are none of ours; no scheduler looks at them."""
    if not count:
        return
    make_namespace(control_plane, "foreign")

    async def work() -> None:
        numbers = iter(range(count))

        async def some(connection: Connection) -> None:
            for number in numbers:
                await create(
                    connection,
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "metadata": {"name": f"pod-{number}", "namespace": "foreign", "labels": {"app": "other"}},
                        "spec": {"schedulerName": "none", "containers": [{"name": "main", "image": "other"}]},
                    },
                )

        async with connect(_unobserved, kubeconfig=str(control_plane.kubeconfig), agent="bench") as connection:
            await asyncio.gather(*(some(connection) for _ in range(_WORKERS)))

    asyncio.run(work())


if __name__ == "__main__":
    main()
