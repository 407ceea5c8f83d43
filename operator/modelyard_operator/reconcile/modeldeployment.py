"""One ModelDeployment, brought one step nearer to its spec."""

from __future__ import annotations

from datetime import datetime

from modelyard_runtime.contract import Failure

from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_operator.api.schema import InvalidManifest
from modelyard_operator.manifests.common import COMPONENT_RUNTIME, LABEL_REVISION, selector_labels
from modelyard_operator.manifests.modeldeployment import render_model_deployment, served_name
from modelyard_operator.manifests.settings import Settings
from modelyard_operator.reconcile.children import NameConflict, NamesakeLeaving, apply_children, find_children
from modelyard_operator.reconcile.conditions import Verdict, condition_of, conditions_from, ready_from, write_status
from modelyard_operator.reconcile.pods import failure_among, fetch_report_of, of_revision
from modelyard_operator.reconcile.verbs import Cluster, Object, Rejected

__all__ = ["observe_model_deployment", "reconcile_model_deployment"]

_NAMESAKE_SECONDS = 1.0


async def reconcile_model_deployment(
    cluster: Cluster, settings: Settings, owner: Object, now: datetime
) -> float | None:
    """Render, apply, observe and report one ModelDeployment.

    Returns:
        Seconds after which to look again, or None when the next event is soon enough.

    Raises:
        Unavailable: the cluster did not answer; nothing is lost, try again.
    """
    metadata = owner["metadata"]
    try:
        spec = ModelDeploymentSpec.parse(owner["spec"])
        rendered = render_model_deployment(owner, spec, settings)
        await find_children(cluster, owner, [(child["kind"], child["metadata"]["name"]) for child in rendered])
        live = await apply_children(cluster, owner, rendered)
    except InvalidManifest as error:
        await _report_blocked(cluster, owner, "InvalidSpec", str(error), now)
        return None
    except NameConflict as conflict:
        await _report_blocked(cluster, owner, "NameConflict", str(conflict), now)
        return 30.0
    except NamesakeLeaving as leaving:
        await _report_blocked(cluster, owner, "NamesakeLeaving", str(leaving), now)
        return _NAMESAKE_SECONDS
    except Rejected as error:
        await _report_blocked(cluster, owner, "InvalidPodTemplate", f"the cluster refused it: {error}", now)
        return 60.0
    selector = selector_labels(COMPONENT_RUNTIME, metadata["name"])
    pods = await cluster.list("Pod", metadata["namespace"], selector)
    deployment = live["Deployment", metadata["name"]]
    url = settings.service_url(metadata["namespace"], metadata["name"])
    await write_status(
        cluster, owner, observe_model_deployment(owner, spec, deployment=deployment, pods=pods, url=url, now=now)
    )
    return None


def observe_model_deployment(
    owner: Object, spec: ModelDeploymentSpec, *, deployment: Object, pods: list[Object], url: str, now: datetime
) -> Object:
    """Return the status that follows from the live Deployment and its pods."""
    name = owner["metadata"]["name"]
    template = deployment["spec"]["template"]
    current = of_revision(pods, template["metadata"]["labels"][LABEL_REVISION])
    observed = deployment.get("status", {})
    available = _available(deployment, failure_among(current))
    up_to_date = _up_to_date(deployment, failure_among(current))
    verdicts = [available, up_to_date]
    report = fetch_report_of(current) if up_to_date.ok else None
    model = owner.get("status", {}).get("model")
    if report is not None:
        model = {
            "uri": report.uri,
            "name": served_name(name, spec),
            "version": report.version,
            "format": report.format,
            "digest": report.digest,
        }
    return {
        "observedGeneration": owner["metadata"]["generation"],
        "url": url,
        "replicas": observed.get("replicas", 0),
        "readyReplicas": observed.get("readyReplicas", 0),
        "selector": ",".join(f"{key}={value}" for key, value in selector_labels(COMPONENT_RUNTIME, name).items()),
        "model": model,
        "conditions": conditions_from(owner, [*verdicts, ready_from(verdicts)], now),
    }


def _available(deployment: Object, failure: Failure | None) -> Verdict:
    wanted = deployment["spec"]["replicas"]
    available = deployment.get("status", {}).get("availableReplicas", 0)
    if available > 0 or wanted == 0:
        return Verdict("Available", ok=True, reason="Serving", message=f"{available} pods answer")
    if failure is not None:
        return Verdict("Available", ok=False, reason=failure.reason, message=failure.message)
    return Verdict("Available", ok=False, reason="Starting", message="no pod is ready yet")


def _up_to_date(deployment: Object, failure: Failure | None) -> Verdict:
    wanted = deployment["spec"]["replicas"]
    observed = deployment.get("status", {})
    updated, total = observed.get("updatedReplicas", 0), observed.get("replicas", 0)
    seen = observed.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    if seen and updated == total == wanted == observed.get("availableReplicas", 0):
        return Verdict("UpToDate", ok=True, reason="RolledOut", message=f"{updated} of {wanted} pods run this spec")
    progress = f"{updated if seen else 0} of {wanted} pods run this spec"
    if failure is not None:
        return Verdict("UpToDate", ok=False, reason=failure.reason, message=f"{failure.message} ({progress})")
    progressing = condition_of(deployment, "Progressing")
    if progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded":
        message = f"{progress}; no pod became ready in time: the pods' events and logs say why"
        return Verdict("UpToDate", ok=False, reason="ProgressDeadlineExceeded", message=message)
    for condition in observed.get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Verdict("UpToDate", ok=False, reason="InvalidPodTemplate", message=condition.get("message", ""))
    return Verdict("UpToDate", ok=False, reason="RollingOut", message=progress)


async def _report_blocked(cluster: Cluster, owner: Object, reason: str, message: str, now: datetime) -> None:
    """Say why the spec is not being carried out; what ran before runs on, and its Available stays."""
    blocked = Verdict("UpToDate", ok=False, reason=reason, message=message)
    before = condition_of(owner, "Available")
    if before is None:
        available = Verdict("Available", ok=False, reason=reason, message=message)
    else:
        available = Verdict(
            "Available", ok=before["status"] == "True", reason=before["reason"], message=before["message"]
        )
    conditions = conditions_from(owner, [available, blocked, ready_from([available, blocked])], now)
    status = {
        **owner.get("status", {}),
        "observedGeneration": owner["metadata"]["generation"],
        "conditions": conditions,
    }
    await write_status(cluster, owner, status)
