"""One ModelDeployment, brought one step nearer to its spec."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from modelyard_runtime.contract import Failure

from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.schema import InvalidManifest
from modelyard_operator.manifests.common import COMPONENT_RUNTIME, LABEL_REVISION, selector_labels
from modelyard_operator.manifests.modeldeployment import render_model_deployment
from modelyard_operator.manifests.revision import KEPT_REVISIONS, is_of_spec, newest_first, revision, spec_of_revision
from modelyard_operator.reconcile.children import NameConflict, NamesakeLeaving, apply_children, find_children, is_child
from modelyard_operator.reconcile.conditions import Verdict, condition_of, conditions_from, ready_from
from modelyard_operator.reconcile.context import Context
from modelyard_operator.reconcile.pods import failure_among, fetch_report_of, is_ready, of_revision
from modelyard_operator.reconcile.refusals import reason_of_refusal
from modelyard_operator.reconcile.rollback import given_up, rolled_back, target_of
from modelyard_operator.reconcile.verbs import Cluster, Object, Rejected

__all__ = ["observe_model_deployment", "reconcile_model_deployment"]

_NAMESAKE_SECONDS = 1.0
_CONFLICT_SECONDS = 30.0
_REFUSED_SECONDS = 60.0
_ROLLBACK_SECONDS = 0.1  # once the status tells of it, it is done


async def reconcile_model_deployment(context: Context, owner: Object) -> float | None:
    """Render, apply, observe and report one ModelDeployment.

    Returns:
        Seconds after which to look again, or None when the next event is soon enough.

    Raises:
        Unavailable: the cluster did not answer; nothing is lost, try again.
    """
    cluster, metadata = context.cluster, owner["metadata"]
    selector = selector_labels(COMPONENT_RUNTIME, metadata["name"])
    revisions = newest_first(
        obj for obj in await cluster.list("ControllerRevision", metadata["namespace"], selector) if is_child(owner, obj)
    )
    target = target_of(owner, revisions)
    gone_back: Verdict | None = None
    blocked: Verdict | None = None
    after: float | None = None
    rolls_back = False
    try:
        spec = ModelDeploymentSpec.parse(owner["spec"])
        rolls_back = spec.rollout.on_failure == "Rollback"
        if target is not None and rolls_back and (gone_back := given_up(owner)) is not None:
            blocked = gone_back
            spec = ModelDeploymentSpec.parse(spec_of_revision(target, owner))
        rendered = render_model_deployment(owner, spec, context.settings)
        await find_children(cluster, owner, [(child["kind"], child["metadata"]["name"]) for child in rendered])
        kept = [("ControllerRevision", obj["metadata"]["name"]) for obj in revisions[:KEPT_REVISIONS]]
        await apply_children(cluster, owner, rendered, also_kept=kept)
    except InvalidManifest as error:
        blocked = _blocked("InvalidSpec", str(error))
    except NameConflict as conflict:
        blocked, after = _blocked("NameConflict", str(conflict)), _CONFLICT_SECONDS
    except NamesakeLeaving as leaving:
        blocked, after = _blocked("NamesakeLeaving", str(leaving)), _NAMESAKE_SECONDS
    except Rejected as error:
        reason = reason_of_refusal(error) or "InvalidPodTemplate"
        blocked, after = _blocked(reason, f"the cluster refused it: {error}"), _REFUSED_SECONDS
    # Trouble with the earlier spec is no reason to try once more the one that was given up.
    blocked = gone_back or blocked
    deployment = await cluster.get("Deployment", metadata["namespace"], metadata["name"])
    pods = await cluster.list("Pod", metadata["namespace"], selector)
    autoscaler = await cluster.get("HorizontalPodAutoscaler", metadata["namespace"], metadata["name"])
    observe = partial(
        observe_model_deployment,
        owner,
        deployment=deployment if deployment is not None and is_child(owner, deployment) else None,
        pods=pods,
        autoscaler=autoscaler if autoscaler is not None and is_child(owner, autoscaler) else None,
        url=context.settings.service_url(metadata["namespace"], metadata["name"]),
        now=context.now(),
    )
    status = observe(blocked=blocked)
    if rolls_back and blocked is None and target is not None:
        failed = rolled_back(status["conditions"], target)
        if failed is not None:
            status, after = observe(blocked=failed), _ROLLBACK_SECONDS
    held = await context.status.write(owner, status)
    if rolls_back and any(entry["type"] == "UpToDate" and entry["status"] == "True" for entry in status["conditions"]):
        await _record(cluster, owner, revisions)
    return held if after is None else after if held is None else min(held, after)


async def _record(cluster: Cluster, owner: Object, revisions: Sequence[Object]) -> None:
    """Keep the present spec as the one that was Ready last."""
    if not revisions or not is_of_spec(revisions[0], owner):
        await cluster.apply(revision(owner))


def _blocked(reason: str, message: str) -> Verdict:
    return Verdict("UpToDate", ok=False, reason=reason, message=message)


def observe_model_deployment(
    owner: Object,
    *,
    deployment: Object | None,
    pods: list[Object],
    url: str,
    now: datetime,
    autoscaler: Object | None = None,
    blocked: Verdict | None = None,
) -> Object:
    """Return the status that follows from what is there now.

    Args:
        owner: the live custom resource.
        deployment: its Deployment, if there is one.
        pods: its pods.
        url: where it answers.
        now: the time.
        autoscaler: its HorizontalPodAutoscaler, if there is one.
        blocked: UpToDate of a spec that is not being carried out; what ran before runs on, and is told of.
    """
    if deployment is None:
        missing = blocked or Verdict("UpToDate", ok=False, reason="Starting", message="the Deployment is not there yet")
        verdicts = [Verdict("Available", ok=False, reason=missing.reason, message=missing.message), missing]
        current, observed = [], {}
    else:
        current = of_revision(pods, deployment["spec"]["template"]["metadata"]["labels"].get(LABEL_REVISION, ""))
        observed = deployment.get("status", {})
        failure = failure_among(current) or _refused_pods(deployment)
        verdicts = [_available(deployment, failure), blocked or _up_to_date(deployment, current, failure)]
    return {
        "observedGeneration": owner["metadata"]["generation"],
        "url": url,
        "replicas": observed.get("replicas", 0),
        "readyReplicas": observed.get("readyReplicas", 0),
        "selector": ",".join(
            f"{key}={value}" for key, value in selector_labels(COMPONENT_RUNTIME, owner["metadata"]["name"]).items()
        ),
        "model": _model(owner, current, new=verdicts[1].ok),
        # A model whose load can't be told serves all the same: this one is no part of Ready.
        "conditions": conditions_from(owner, [*verdicts, *_scaling(autoscaler), ready_from(verdicts)], now),
    }


def _model(owner: Object, current: list[Object], *, new: bool) -> Object | None:
    """Return the model that is served: what its pods say once all are new, else what was told before."""
    report = fetch_report_of(current) if new else None
    if report is None:
        before: Object | None = owner.get("status", {}).get("model")
        return before
    return {
        "uri": report.uri,
        "name": owner["spec"].get("model", {}).get("name") or owner["metadata"]["name"],
        "version": report.version,
        "format": report.format,
        "digest": report.digest,
    }


def _available(deployment: Object, failure: Failure | None) -> Verdict:
    wanted = deployment["spec"].get("replicas", 1)
    available = deployment.get("status", {}).get("availableReplicas", 0)
    if wanted == 0:
        message = "scaled to zero: nothing answers until spec.replicas is 1 or more"
        return Verdict("Available", ok=False, reason="ScaledToZero", message=message)
    if available > 0:
        return Verdict("Available", ok=True, reason="Serving", message=f"{available} pods answer")
    if failure is not None:
        return Verdict("Available", ok=False, reason=failure.reason, message=failure.message)
    return Verdict("Available", ok=False, reason="Starting", message="no pod is ready yet")


def _up_to_date(deployment: Object, current: list[Object], failure: Failure | None) -> Verdict:
    metadata, spec, observed = deployment["metadata"], deployment["spec"], deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    updated, total = observed.get("updatedReplicas", 0), observed.get("replicas", 0)
    seen = observed.get("observedGeneration", 0) >= metadata.get("generation", 0)
    if seen and updated == total == wanted == observed.get("availableReplicas", 0):
        return _same_artifact(current) or Verdict(
            "UpToDate", ok=True, reason="RolledOut", message=f"{updated} of {wanted} pods run this spec"
        )
    progress = f"{updated if seen else 0} of {wanted} pods run this spec"
    if failure is not None:
        return Verdict("UpToDate", ok=False, reason=failure.reason, message=f"{failure.message} ({progress})")
    if spec.get("paused"):
        message = f"{progress}; `kubectl rollout resume deployment/{metadata['name']}` lets it go on"
        return Verdict("UpToDate", ok=False, reason="Paused", message=message)
    progressing = condition_of(deployment, "Progressing")
    if seen and progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded":
        message = f"{progress}; no pod became ready in time: the pods' events and logs say why"
        return Verdict("UpToDate", ok=False, reason="ProgressDeadlineExceeded", message=message)
    return Verdict("UpToDate", ok=False, reason="RollingOut", message=progress)


def _scaling(autoscaler: Object | None) -> list[Verdict]:
    """Return ScalingActive where there is an autoscaler: whether it knows the load."""
    if autoscaler is None:
        return []
    active = condition_of(autoscaler, "ScalingActive")
    if active is None:
        return [Verdict("ScalingActive", ok=False, reason="Starting", message="the autoscaler has not looked yet")]
    reason, message = active.get("reason") or "Unknown", active.get("message") or ""
    if active["status"] == "True":
        return [Verdict("ScalingActive", ok=True, reason="Scaling", message=message)]
    if "metrics.k8s.io" in message:
        remedy = "the cluster has no resource metrics: install metrics-server"
        return [Verdict("ScalingActive", ok=False, reason="MetricsMissing", message=f"{remedy} ({message})")]
    return [Verdict("ScalingActive", ok=False, reason=reason, message=message)]


def _refused_pods(deployment: Object) -> Failure | None:
    """Return why the cluster lets no pod be made, or None."""
    failure = condition_of(deployment, "ReplicaFailure")
    if failure is None or failure["status"] != "True":
        return None
    message = failure.get("message", "")
    return Failure(reason_of_refusal(message) or "InvalidPodTemplate", f"the cluster refused the pods: {message}")


def _same_artifact(current: list[Object]) -> Verdict | None:
    """Return a verdict where pods of one spec serve different artifacts: it was overwritten at its URI."""
    reports = [fetch_report_of([pod]) for pod in current if is_ready(pod)]
    digests = sorted({report.digest for report in reports if report is not None})
    if len(digests) < 2:
        return None
    message = (
        f"pods answer from {len(digests)} different artifacts ({', '.join(digests)}): it was overwritten at its URI; "
        "give each artifact a URI of its own, and name the digest in spec.model.digest"
    )
    return Verdict("UpToDate", ok=False, reason="ArtifactChanged", message=message)
