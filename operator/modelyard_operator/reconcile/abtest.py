"""One ABTest, brought one step nearer to its spec."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelyard_runtime.contract import ANNOTATION_ROUTER_VERSION, RouterFile

from modelyard_operator.api.abtest import ABTestSpec
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.schema import InvalidManifest
from modelyard_operator.experiment import buckets as bucket_maps
from modelyard_operator.experiment.buckets import Segment
from modelyard_operator.manifests.abtest import read_annotations, render_abtest, router_config, router_name
from modelyard_operator.manifests.common import COMPONENT_ROUTER, LABEL_REVISION, selector_labels
from modelyard_operator.manifests.modeldeployment import served_name
from modelyard_operator.reconcile.children import NameConflict, NamesakeLeaving, apply_children, find_children, is_child
from modelyard_operator.reconcile.conditions import Verdict, condition_of, conditions_from, ready_from
from modelyard_operator.reconcile.context import Context
from modelyard_operator.reconcile.pods import failure_among, is_ready, of_revision
from modelyard_operator.reconcile.refusals import reason_of_refusal
from modelyard_operator.reconcile.verbs import Cluster, Object, Rejected

__all__ = ["next_split", "previous_split", "reconcile_abtest", "weights_applied"]


class Blocked(Exception):
    """The spec cannot be carried out as things are; whatever runs goes on running."""

    def __init__(self, reason: str, message: str, *, look_again: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.look_again = reason, message, look_again


@dataclass(frozen=True)
class Split:
    """What the routers do, or did: kept in the ConfigMap and in status, so that each can restore the other."""

    epoch: int = 0
    buckets: tuple[Segment, ...] = ()
    assignment: tuple[str, str] | None = None  # (header, salt); None where only the status was left


@dataclass
class Models:
    """The ModelDeployments that the variants name."""

    specs: dict[str, ModelDeploymentSpec] = field(default_factory=dict)
    available: dict[str, bool] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)


async def reconcile_abtest(context: Context, owner: Object) -> float | None:
    """Render, apply, observe and report one ABTest.

    Returns:
        Seconds after which to look again, or None when the next event is soon enough.

    Raises:
        Unavailable: the cluster did not answer; nothing is lost, try again.
    """
    try:
        return await _reconcile(context, owner)
    except InvalidManifest as error:
        blocked = Blocked("InvalidSpec", str(error))
    except NameConflict as conflict:
        blocked = Blocked("NameConflict", str(conflict), look_again=30.0)
    except NamesakeLeaving as leaving:
        blocked = Blocked("NamesakeLeaving", str(leaving), look_again=1.0)
    except Rejected as error:
        reason = reason_of_refusal(error) or "RouterRejected"
        blocked = Blocked(reason, f"the cluster refused it: {error}", look_again=60.0)
    except Blocked as error:
        blocked = error
    held = await _report_blocked(context, owner, blocked)
    return blocked.look_again if held is None else held


async def _reconcile(context: Context, owner: Object) -> float | None:
    cluster, settings = context.cluster, context.settings
    name, namespace = owner["metadata"]["name"], owner["metadata"]["namespace"]
    spec = ABTestSpec.parse(owner["spec"])
    keys = [("ConfigMap", router_name(name)), ("Service", name), ("Deployment", router_name(name))]
    models, found, pods = await asyncio.gather(
        _observe_models(cluster, namespace, spec),
        find_children(cluster, owner, keys),
        cluster.list("Pod", namespace, selector_labels(COMPONENT_ROUTER, name)),
    )
    previous = previous_split(found.get(keys[0]), owner)
    split, held = next_split(previous, spec, models.available, default_salt=name)
    config = router_config(owner, spec, models.specs, buckets=split.buckets, epoch=split.epoch, settings=settings)
    rendered = render_abtest(owner, config, settings)
    pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    # The ConfigMap and the nudge come first: they are what users wait for after a shift.
    config_map, others = rendered[0], rendered[1:]
    version = config_map["data"][RouterFile.VERSION]
    await cluster.apply(config_map)
    await _nudge(cluster, pods, version)
    live = await apply_children(cluster, owner, others, also_kept=keys[:1])
    deployment = live["Deployment", router_name(name)]
    router = _router_available(deployment, pods)
    ready_pods = [pod for pod in pods if is_ready(pod)]
    states = context.routers.states(namespace, name, ready_pods, version)
    if states is None:
        return None  # they are being asked: their answers have this run again
    applied = weights_applied(states, version)
    variants = held or Verdict("VariantsAvailable", ok=True, reason="Serving")
    verdicts = [router, applied, variants]
    weights = bucket_maps.sizes(split.buckets)
    status = {
        "observedGeneration": owner["metadata"]["generation"],
        "phase": "Running" if router.ok and applied.ok else owner.get("status", {}).get("phase", "Pending"),
        "url": settings.service_url(namespace, name),
        "epoch": split.epoch,
        "weights": weights,
        "weightsSummary": _summary(weights, spec.control),
        "buckets": bucket_maps.to_json(split.buckets),
        "variants": [
            {"name": variant.name, "modelDeployment": variant.model_deployment}
            | ({"version": version} if (version := models.versions[variant.model_deployment]) else {})
            for variant in spec.variants
        ],
        "conditions": conditions_from(owner, [*verdicts, ready_from(verdicts)], context.now()),
    }
    return await context.status.write(owner, status)


async def _observe_models(cluster: Cluster, namespace: str, spec: ABTestSpec) -> Models:
    names = sorted({variant.model_deployment for variant in spec.variants})
    found = await asyncio.gather(*(cluster.get("ModelDeployment", namespace, name) for name in names))
    models = Models()
    for name, obj in zip(names, found, strict=True):
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            raise Blocked(
                "UnknownModelDeployment",
                f"there is no ModelDeployment {name} in namespace {namespace}: create it, or correct spec.variants",
            )
        models.specs[name] = ModelDeploymentSpec.parse(obj["spec"])
        available = condition_of(obj, "Available")
        models.available[name] = available is not None and available["status"] == "True"
        models.versions[name] = obj.get("status", {}).get("model", {}).get("version")
    # Which names a container of a user's own answers to is not known here.
    served = {name: served_name(name, model) for name, model in models.specs.items() if model.container is None}
    if len(set(served.values())) > 1:
        listing = ", ".join(f"{name} serves {model}" for name, model in served.items())
        raise Blocked(
            "ModelNameMismatch",
            f"requests name the model, so all variants must serve one name: {listing}; set spec.model.name in each",
        )
    return models


def previous_split(config_map: Object | None, owner: Object) -> Split:
    """Return the split in force: from the ConfigMap, or from status where that was deleted."""
    status = owner.get("status", {})
    if config_map is not None:
        try:
            epoch, assignment = read_annotations(config_map)
            return Split(epoch, bucket_maps.from_json(config_map["data"][RouterFile.BUCKETS]), assignment)
        except (KeyError, ValueError):
            pass  # somebody wrote into it: status knows as well
    if status.get("buckets"):
        return Split(epoch=status.get("epoch", 0), buckets=bucket_maps.from_json(status["buckets"]))
    return Split()


def next_split(
    previous: Split, spec: ABTestSpec, available: Mapping[str, bool], *, default_salt: str
) -> tuple[Split, Verdict | None]:
    """Return the split that the spec asks for, and a verdict when it has to wait for a model.

    A variant never gains traffic while its model does not answer: its users would get errors. Until it does, the split
    in force stays as it is.
    """
    deployments = {variant.name: variant.model_deployment for variant in spec.variants}
    wanted = bucket_maps.normalize({variant.name: variant.weight for variant in spec.variants})
    before = bucket_maps.sizes(previous.buckets)
    missing = sorted(
        deployments[name]
        for name, share in wanted.items()
        if share > before.get(name, 0) and not available[deployments[name]]
    )
    assignment = (spec.assignment.header.lower(), spec.assignment.salt or default_salt)
    if missing:
        message = f"ModelDeployment {', '.join(missing)} does not answer yet: its conditions say why"
        verdict = Verdict("VariantsAvailable", ok=False, reason="VariantNotAvailable", message=message)
        if not previous.buckets or set(before) - set(wanted):
            raise Blocked("VariantNotAvailable", message)
        return Split(previous.epoch, previous.buckets, assignment), verdict
    buckets = bucket_maps.next_map(previous.buckets, wanted)
    same = buckets == previous.buckets and previous.assignment in (None, assignment)
    return Split(previous.epoch if same else previous.epoch + 1, buckets, assignment), None


async def _nudge(cluster: Cluster, pods: list[Object], version: str) -> None:
    """Change an annotation of each router pod: the kubelet then refreshes its ConfigMap volume at once."""
    stale = [
        pod["metadata"]
        for pod in pods
        if pod["metadata"].get("annotations", {}).get(ANNOTATION_ROUTER_VERSION) != version
    ]
    await asyncio.gather(
        *(
            cluster.annotate("Pod", metadata["namespace"], metadata["name"], {ANNOTATION_ROUTER_VERSION: version})
            for metadata in stale
        )
    )


def _router_available(deployment: Object, pods: list[Object]) -> Verdict:
    if deployment.get("status", {}).get("availableReplicas", 0) > 0:
        return Verdict("RouterAvailable", ok=True, reason="Serving")
    current = of_revision(pods, deployment["spec"]["template"]["metadata"]["labels"][LABEL_REVISION])
    failure = failure_among(current)
    if failure is not None:
        return Verdict("RouterAvailable", ok=False, reason=failure.reason, message=failure.message)
    return Verdict("RouterAvailable", ok=False, reason="Starting", message="no router is ready yet")


def weights_applied(states: Sequence[Object | None], version: str) -> Verdict:
    """Return whether every ready router has a version of the configuration.

    Args:
        states: what each says of itself; None where one does not answer.
        version: of the configuration.
    """
    for state in states:
        if state is not None and state.get("error"):
            return Verdict("WeightsApplied", ok=False, reason="RouterRejected", message=str(state["error"]))
    have = sum(1 for state in states if state is not None and state.get("version") == version)
    if states and have == len(states):
        return Verdict("WeightsApplied", ok=True, reason="Applied", message=f"{have} routers have the weights")
    message = f"{have} of {len(states)} routers have the weights"
    return Verdict("WeightsApplied", ok=False, reason="Applying", message=message)


def _summary(weights: Mapping[str, int], control: str) -> str:
    ordered = sorted(weights, key=lambda name: (name != control, name))
    return ", ".join(f"{name} {weights[name] / 100:g}%" for name in ordered)


async def _report_blocked(context: Context, owner: Object, blocked: Blocked) -> float | None:
    """Say why the spec is not being carried out; the routers, where there are any, go on with what they have."""
    name, namespace = owner["metadata"]["name"], owner["metadata"]["namespace"]
    deployment = await context.cluster.get("Deployment", namespace, router_name(name))
    if deployment is not None and is_child(owner, deployment):
        pods = await context.cluster.list("Pod", namespace, selector_labels(COMPONENT_ROUTER, name))
        router = _router_available(deployment, pods)
    else:
        router = Verdict("RouterAvailable", ok=False, reason=blocked.reason, message=blocked.message)
    waits = blocked.reason in ("UnknownModelDeployment", "VariantNotAvailable")
    types = ("VariantsAvailable", "WeightsApplied") if waits else ("WeightsApplied",)
    verdicts = [router, *(Verdict(type_, ok=False, reason=blocked.reason, message=blocked.message) for type_ in types)]
    status = {
        "phase": "Pending",
        **owner.get("status", {}),
        "observedGeneration": owner["metadata"]["generation"],
        "conditions": conditions_from(owner, [*verdicts, ready_from(verdicts)], context.now()),
    }
    return await context.status.write(owner, status)
