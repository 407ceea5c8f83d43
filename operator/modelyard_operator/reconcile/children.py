"""Applying children: none that is not ours is touched, and none that is no longer rendered stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from modelyard_operator.api.kinds import CUSTOM_KINDS
from modelyard_operator.manifests.common import LABEL_NAME
from modelyard_operator.reconcile.verbs import Cluster, Object

__all__ = [
    "CHILD_KINDS",
    "NameConflict",
    "NamesakeLeaving",
    "OtherOperator",
    "apply_children",
    "controller_of",
    "find_children",
    "is_child",
]

CHILD_KINDS = (
    "Deployment",
    "Service",
    "ConfigMap",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "ControllerRevision",
)


class NameConflict(Exception):
    """Another object already has the name of a child."""


class NamesakeLeaving(Exception):
    """A child of a deleted namesake is still there: garbage collection will take it."""


class OtherOperator(Exception):
    """Another installation that watches this namespace takes care of the object: two would undo each other's work."""


def controller_of(obj: Object) -> Object | None:
    """Return the controlling owner reference, or None."""
    references: list[Object] = obj["metadata"].get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), None)


def is_child(owner: Object, obj: Object) -> bool:
    """Return whether an object is controlled by this very custom resource."""
    controller = controller_of(obj)
    return controller is not None and controller["uid"] == owner["metadata"]["uid"]


async def find_children(
    cluster: Cluster, owner: Object, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Object]:
    """Return the live objects under these kinds and names.

    Raises:
        NameConflict: one of the names belongs to an object that is not ours.
        NamesakeLeaving: one belongs to a just-deleted custom resource of the same name.
        OtherOperator: the first of them, which is made before the others, is another installation's.
    """
    namespace = owner["metadata"]["namespace"]
    live = await asyncio.gather(*(cluster.get(kind, namespace, name) for kind, name in keys))
    for obj in live:
        if obj is not None:
            await _check_ownership(cluster, owner, obj)
    other = None if live[0] is None else await cluster.other_operator(live[0])
    if other is not None:
        raise OtherOperator(f"the operator in namespace {other} takes care of it")
    return {key: obj for key, obj in zip(keys, live, strict=True) if obj is not None}


async def _check_ownership(cluster: Cluster, owner: Object, obj: Object) -> None:
    kind, name = obj["kind"], obj["metadata"]["name"]
    controller = controller_of(obj)
    if is_child(owner, obj):
        if obj["metadata"].get("deletionTimestamp"):
            raise NamesakeLeaving(f"{kind} {name} is being deleted; it will be made anew")
        return
    if controller is not None and controller["kind"] in CUSTOM_KINDS:
        holder = await cluster.get(controller["kind"], owner["metadata"]["namespace"], controller["name"])
        if holder is None or holder["metadata"]["uid"] != controller["uid"]:
            raise NamesakeLeaving(
                f"{kind} {name} of a deleted {controller['kind']} is still there; waiting for it to go"
            )
    belongs = f"belongs to {controller['kind']} {controller['name']}" if controller else "was made by someone else"
    raise NameConflict(
        f"{kind} {name} {belongs} and is left alone: delete or rename it, or give this {owner['kind']} another name"
    )


async def apply_children(
    cluster: Cluster, owner: Object, rendered: Sequence[Object], *, also_kept: Sequence[tuple[str, str]] = ()
) -> dict[tuple[str, str], Object]:
    """Apply the rendered objects, delete what was rendered once and is not now; return them live, by kind and name."""
    live: dict[tuple[str, str], Object] = {}
    # One is first: of two operators that see a new object, the one that makes it goes on. Pods come last: where another
    # has the name of a Service, nothing is started that nobody could reach.
    pods = [child for child in rendered[1:] if child["kind"] == "Deployment"]
    for step in (rendered[:1], [child for child in rendered[1:] if child not in pods], pods):
        applied = await asyncio.gather(*(cluster.apply(child) for child in step))
        live |= {(child["kind"], child["metadata"]["name"]): obj for child, obj in zip(step, applied, strict=True)}
    await _prune(cluster, owner, kept={*live, *also_kept})
    return live


async def _prune(cluster: Cluster, owner: Object, *, kept: set[tuple[str, str]]) -> None:
    metadata = owner["metadata"]
    labels = {LABEL_NAME: metadata["name"]}
    lists = await asyncio.gather(*(cluster.list(kind, metadata["namespace"], labels) for kind in CHILD_KINDS))
    for kind, objects in zip(CHILD_KINDS, lists, strict=True):
        for obj in objects:
            if is_child(owner, obj) and (kind, obj["metadata"]["name"]) not in kept:
                await cluster.delete(kind, metadata["namespace"], obj["metadata"]["name"], obj["metadata"]["uid"])
