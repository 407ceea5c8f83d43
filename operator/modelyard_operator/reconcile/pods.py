"""What Pod objects tell of a model: why one does not come up, and which artifact it serves. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from modelyard_runtime.contract import Failure, FailureReason, FetchReport, parse_termination_message

from modelyard_operator.manifests.common import LABEL_REVISION
from modelyard_operator.reconcile.verbs import Object

__all__ = ["failure_among", "failure_of", "fetch_report_of", "is_ready", "of_revision"]

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_ENDED = ("Failed", "Succeeded")
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def of_revision(pods: Iterable[Object], revision: str) -> list[Object]:
    """Return the pods of a pod template that are not on their way out, oldest first.

    Nor those that have ended: an evicted pod's object stays for months, and another pod took its place long ago.
    """
    current = [
        pod
        for pod in pods
        if pod["metadata"].get("labels", {}).get(LABEL_REVISION) == revision
        and not pod["metadata"].get("deletionTimestamp")
        and pod.get("status", {}).get("phase") not in _ENDED
    ]
    return sorted(current, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


def is_ready(pod: Object) -> bool:
    """Return whether the kubelet calls the pod ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def failure_among(pods: Iterable[Object]) -> Failure | None:
    """Return why the first pod that does not come up does not, or None."""
    return next((failure for failure in map(failure_of, pods) if failure is not None), None)


def failure_of(pod: Object) -> Failure | None:
    """Return why a pod does not come up; None for one that is ready, or only needs time."""
    if is_ready(pod):
        return None
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Failure("Unschedulable", f"no node takes the pod: {condition.get('message', '')}")
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        failure = _container_failure(container)
        if failure is not None:
            return failure
    return None


def _container_failure(container: Object) -> Failure | None:
    state, last = container.get("state", {}), container.get("lastState", {})
    waiting = state.get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        return Failure(
            "ImagePullFailed", f"image {container.get('image', '')} of container {container['name']}: {message}"
        )
    if reason in _CONFIG_REASONS:
        return Failure("InvalidPodTemplate", f"container {container['name']} cannot start ({reason}): {message}")
    terminated = state.get("terminated") or last.get("terminated")
    if not terminated or terminated.get("exitCode") == 0:
        return None
    said = parse_termination_message(terminated.get("message", ""))
    if isinstance(said, Failure):
        return said
    if terminated.get("reason") == "OOMKilled":
        return Failure(
            "OutOfMemory", f"container {container['name']} was killed for memory: raise spec.resources.limits.memory"
        )
    tail = terminated.get("message", "").strip()[-500:]
    return Failure(
        FailureReason.LOAD_FAILED,
        f"container {container['name']} exited with {terminated.get('exitCode')}; see its log"
        + (f": {tail}" if tail else ""),
    )


def fetch_report_of(pods: Iterable[Object]) -> FetchReport | None:
    """Return what the newest pod's init container says it fetched, or None."""
    found = None
    for pod in pods:
        for container in pod.get("status", {}).get("initContainerStatuses", []):
            terminated = container.get("state", {}).get("terminated", {})
            said = parse_termination_message(terminated.get("message", ""))
            if isinstance(said, FetchReport):
                found = said
    return found
