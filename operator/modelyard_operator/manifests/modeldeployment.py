"""ModelDeployment -> Deployment, Service and headless Service."""

from __future__ import annotations

import math

from modelyard_runtime.contract import (
    ANY_FORMAT,
    GRPC_PORT,
    HTTP_PORT,
    PATH_LIVE,
    PATH_READY,
    PATH_SERVING,
    PVC_MOUNT,
    VOLUME_MOUNT,
    Env,
)

from modelyard_operator.api.modeldeployment import Model, ModelDeploymentSpec, uri_scheme
from modelyard_operator.api.schema import parse_duration
from modelyard_operator.manifests.common import (
    COMPONENT_RUNTIME,
    CONTAINER_SECURITY,
    FETCH_CONTAINER,
    RUNTIME_CONTAINER,
    Object,
    Ports,
    Strategy,
    deployment,
    pod_security,
    pod_template,
    scrape_annotations,
    service,
    spread,
)
from modelyard_operator.manifests.container import own_container, probe, resources
from modelyard_operator.manifests.customization import customized
from modelyard_operator.manifests.scaling import scaling
from modelyard_operator.manifests.settings import Settings

__all__ = ["FETCH_CONTAINER", "RUNTIME_CONTAINER", "render_model_deployment", "served_name"]

_GRACE_MARGIN = 10.0


def served_name(name: str, spec: ModelDeploymentSpec) -> str:
    """Return the name under which a ModelDeployment's model is addressed."""
    return (spec.model and spec.model.name) or name


def ports_of(spec: ModelDeploymentSpec) -> Ports:
    """Return the ports of a ModelDeployment's pods."""
    if spec.container is None:
        return Ports(HTTP_PORT, GRPC_PORT)
    return Ports(spec.container.port, spec.container.grpc_port)


def health_path(spec: ModelDeploymentSpec) -> str | None:
    """Return what routers ask a pod for its health; None: whether its port is open."""
    return PATH_READY if spec.container is None else spec.container.readiness_path


def render_model_deployment(owner: Object, spec: ModelDeploymentSpec, settings: Settings) -> list[Object]:
    """Return the children of a ModelDeployment, in the order in which they are applied.

    Args:
        owner: the live custom resource (its metadata and kind are used).
        spec: its parsed spec.
        settings: the installation's.
    """
    name, ports = owner["metadata"]["name"], ports_of(spec)
    return [
        *scaling(owner, spec),
        service(owner, COMPONENT_RUNTIME, name, ports),
        service(owner, COMPONENT_RUNTIME, f"{name}-pods", ports, headless=True),
        deployment(
            owner,
            COMPONENT_RUNTIME,
            name,
            replicas=spec.replicas,
            template=_pod_template(owner, spec, settings),
            strategy=Strategy(
                max_surge=spec.rollout.max_surge,
                max_unavailable=spec.rollout.max_unavailable,
                progress_deadline=_deadline(spec),
            ),
        ),
    ]


def _deadline(spec: ModelDeploymentSpec) -> int:
    return math.ceil(parse_duration(spec.rollout.progress_deadline))


def _pod_template(owner: Object, spec: ModelDeploymentSpec, settings: Settings) -> Object:
    annotations = {"kubectl.kubernetes.io/default-container": RUNTIME_CONTAINER}
    if spec.container is None:
        annotations |= scrape_annotations(HTTP_PORT)
    elif spec.container.metrics is not None:
        annotations |= scrape_annotations(spec.container.metrics.port, spec.container.metrics.path)
    template = pod_template(owner, COMPONENT_RUNTIME, _pod_spec(owner["metadata"]["name"], spec, settings), annotations)
    return customized(template, owner, spec.pod_template, image=spec.container is None)


def _pod_spec(name: str, spec: ModelDeploymentSpec, settings: Settings) -> Object:
    drain = parse_duration(spec.serving.drain_delay)
    timeout = parse_duration(spec.serving.limits.timeout)
    security = pod_security(fixed_user=settings.fixed_user)
    pod: Object = {
        "initContainers": [],
        "containers": [],
        "volumes": [],
        "terminationGracePeriodSeconds": math.ceil(drain + timeout + _GRACE_MARGIN),
        # Named even where it is the default: once set, Kubernetes keeps it in a field of an older name as well.
        "serviceAccountName": spec.service_account_name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        "topologySpreadConstraints": spread(COMPONENT_RUNTIME, name),
    }
    if spec.container is None:
        pod["containers"] = [_runtime_container(name, spec, settings)]
    else:
        pod["containers"] = [own_container(spec, spec.container, deadline=_deadline(spec))]
        # Images of others run as the user that they name.
        pod["securityContext"] = {key: value for key, value in security.items() if not key.startswith("runAs")}
    if spec.model is not None:
        pod["initContainers"] = [_fetch_container(spec, spec.model, settings)]
        pod["volumes"] += [{"name": "model", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
        if uri_scheme(spec.model.uri) == "pvc":
            claim = spec.model.uri.removeprefix("pvc://").partition("/")[0]
            pod["volumes"].append({"name": "claim", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return {key: value for key, value in pod.items() if value != []}


def _fetch_container(spec: ModelDeploymentSpec, model: Model, settings: Settings) -> Object:
    command = ["python", "-m", "modelyard_runtime.artifacts", model.uri, "--to", VOLUME_MOUNT]
    for flag, value in (
        ("--digest", model.digest),
        ("--format", model.format if spec.container is None else ANY_FORMAT),
        ("--version", model.version),
    ):
        if value is not None:
            command += [flag, value]
    if model.allow_pickle:
        command.append("--allow-pickle")
    mounts: list[Object] = [{"name": "model", "mountPath": VOLUME_MOUNT}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the container's own
    if uri_scheme(model.uri) == "pvc":
        command += ["--claim-root", PVC_MOUNT]
        mounts.append({"name": "claim", "mountPath": PVC_MOUNT, "readOnly": True})
    container: Object = {
        "name": FETCH_CONTAINER,
        "image": settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "volumeMounts": mounts,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if model.credentials is not None:
        # Here and nowhere else: the model's own code runs in the other container.
        secret = model.credentials.secret_name
        container["envFrom"] = [{"secretRef": {"name": secret}}]
        if uri_scheme(model.uri) == "oci":
            # A key that is no proper name of a variable: `envFrom` of older Kubernetes leaves it out.
            key = {"name": secret, "key": ".dockerconfigjson", "optional": True}
            container["env"] = [{"name": str(Env.DOCKER_CONFIG_JSON), "valueFrom": {"secretKeyRef": key}}]
    if spec.container is not None:
        user = {
            key: value for key, value in pod_security(fixed_user=settings.fixed_user).items() if key.startswith("runAs")
        }
        container["securityContext"] = {**CONTAINER_SECURITY, **user}
    # Costs the pod nothing (a pod asks for the larger of the two), and quotas refuse containers that name none.
    return container | resources(spec)


def _runtime_container(name: str, spec: ModelDeploymentSpec, settings: Settings) -> Object:
    serving = spec.serving
    env = {
        Env.MODEL_NAME: served_name(name, spec),
        Env.MODEL_DIR: VOLUME_MOUNT,
        Env.CACHE_TTL: _number(parse_duration(serving.cache.ttl)),
        Env.CACHE_MAX_BYTES: str(serving.cache.max_bytes),
        Env.MAX_BODY_BYTES: str(serving.limits.max_body_bytes),
        Env.TIMEOUT: _number(parse_duration(serving.limits.timeout)),
        Env.MAX_QUEUE: str(serving.limits.max_queue),
        Env.BATCH_MAX_ROWS: str(serving.batching.max_rows),
        Env.BATCH_MAX_DELAY: _number(parse_duration(serving.batching.max_delay)),
        Env.MAX_CONNECTION_AGE: _number(parse_duration(serving.max_connection_age)),
        Env.WARMUP_REQUESTS: str(serving.warmup.requests),
        Env.DRAIN_DELAY: _number(parse_duration(serving.drain_delay)),
    }
    if spec.model is not None and spec.model.allow_pickle:
        env[Env.ALLOW_PICKLE] = "true"
    if spec.model is not None and spec.model.parameters.batchable is not None:
        env[Env.BATCHABLE] = "true" if spec.model.parameters.batchable else "false"
    if serving.workers > 1:
        env[Env.WORKERS] = str(serving.workers)
    container: Object = {
        "name": RUNTIME_CONTAINER,
        "image": settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "modelyard_runtime"],
        "env": [{"name": str(key), "value": value} for key, value in env.items()] + _tracing(name, settings),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        # A model may load for as long as the rollout's deadline allows; the other probes begin when this one is green.
        "startupProbe": probe(PATH_SERVING, period=1, failures=_deadline(spec)),
        "readinessProbe": probe(PATH_SERVING, period=2, failures=2),
        "livenessProbe": probe(PATH_LIVE, period=10, failures=3),
        "volumeMounts": [
            {"name": "model", "mountPath": VOLUME_MOUNT, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return container | resources(spec)


def _tracing(name: str, settings: Settings) -> list[Object]:
    """Return the variables of OpenTelemetry's SDK, with where a span comes from in its own convention's names."""
    if not settings.tracing:
        return []
    own = f"k8s.namespace.name=$(K8S_NAMESPACE),k8s.deployment.name={name},k8s.pod.name=$(K8S_POD)"
    given = settings.tracing.get("OTEL_RESOURCE_ATTRIBUTES")
    variables = {**settings.tracing, "OTEL_RESOURCE_ATTRIBUTES": f"{own},{given}" if given else own}
    fields = {"K8S_NAMESPACE": "metadata.namespace", "K8S_POD": "metadata.name"}
    return [
        *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
        *({"name": key, "value": value} for key, value in sorted(variables.items())),
    ]


def _number(value: float) -> str:
    return f"{value:g}"
