"""Wrong manifests and the field that each is refused for: one table for the API server and for local mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


def model_deployment(name: str = "churn", **spec: Any) -> Manifest:
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": "pvc://models/churn/1"}, **spec},
    }


def abtest(name: str = "churn-test", **spec: Any) -> Manifest:
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ABTest",
        "metadata": {"name": name},
        "spec": {
            "control": "current",
            "variants": [
                {"name": "current", "modelDeployment": "churn", "weight": 90},
                {"name": "gbm", "modelDeployment": "churn-gbm", "weight": 10},
            ],
            "assignment": {"header": "x-user-id"},
            **spec,
        },
    }


@dataclass(frozen=True)
class Case:
    """A manifest, and the path of the field it is refused for (None: it is taken)."""

    name: str
    manifest: Manifest
    path: str | None

    def __str__(self) -> str:
        return self.name


def _changed(base: Manifest, change: Callable[[Manifest], object]) -> Manifest:
    manifest = copy.deepcopy(base)
    change(manifest)
    return manifest


def _mdep(name: str, path: str | None, change: Callable[[Manifest], object]) -> Case:
    return Case(f"mdep-{name}", _changed(model_deployment(), change), path)


def _uri(name: str, uri: Any, path: str | None = "spec.model.uri") -> Case:
    return _mdep(f"uri-{name}", path, lambda m: m["spec"]["model"].update(uri=uri))


def _credentials(name: str, path: str | None, uri: str = "s3://models/churn/4", secret: Manifest | None = None) -> Case:
    model = {"uri": uri, "credentials": {"secretName": "s3-read"} if secret is None else secret}
    return _mdep(f"credentials-{name}", path, lambda m: m["spec"].update(model=model))


def _abt(name: str, path: str | None, change: Callable[[Manifest], object]) -> Case:
    return Case(f"abt-{name}", _changed(abtest(), change), path)


def _spec(**values: Any) -> Callable[[Manifest], object]:
    return lambda m: m["spec"].update(values)


FULL = model_deployment(
    model={
        "uri": "s3://models/churn.skops",
        "credentials": {"secretName": "s3-read"},
        "name": "Churn.v2",
        "format": "sklearn",
        "version": "4",
        "digest": "sha256:" + "0" * 64,
        "allowPickle": True,
        "parameters": {"batchable": True},
    },
    replicas=0,
    resources={"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": 2, "memory": "0.5Gi"}},
    serving={
        "cache": {"ttl": "1m30s", "maxBytes": 0},
        "batching": {"maxRows": 1, "maxDelay": "5ms"},
        "limits": {"maxBodyBytes": 1024, "maxQueue": 1, "timeout": "1h"},
        "warmup": {"requests": 0},
        "workers": 4,
        "maxConnectionAge": "0s",
        "drainDelay": "0s",
    },
    rollout={"maxSurge": 0, "maxUnavailable": "50%", "progressDeadline": "1h30m"},
    serviceAccountName="model-reader",
    podTemplate={
        "metadata": {"labels": {"team": "ml"}, "annotations": {"note": "x"}},
        "spec": {
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [
                {
                    "name": "runtime",
                    "image": "registry.example/runtime:custom",
                    "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                },
                {"name": "proxy", "image": "registry.example/proxy:1", "ports": [{"containerPort": 15001}]},
            ],
            "volumes": [{"name": "model", "emptyDir": {"sizeLimit": "10Gi"}}],
        },
    },
)

AUTOSCALED = model_deployment(
    resources={"requests": {"cpu": "500m"}},
    autoscaling={"minReplicas": 2, "maxReplicas": 10, "targetCPUUtilization": 70},
)

CONTAINER = model_deployment(
    container={
        "image": "registry.example/server:1",
        "command": ["serve"],
        "args": ["--model", "/mnt/model"],
        "env": [
            {"name": "LEVEL", "value": "info"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "port": 8000,
        "grpcPort": 8001,
        "readinessPath": "/v2/health/ready",
        "metrics": {"port": 8002, "path": "/metrics"},
    },
    serving={"drainDelay": "20s", "limits": {"timeout": "2m"}},
)
CONTAINER_ALONE = model_deployment(container={"image": "registry.example/server:1"}, serving={"drainDelay": "0s"})
del CONTAINER_ALONE["spec"]["model"]


def _container(name: str, path: str | None, **spec: Any) -> Case:
    manifest = copy.deepcopy(CONTAINER)
    manifest["spec"]["container"] |= spec.pop("container", {})
    manifest["spec"] |= spec
    return Case(f"mdep-container-{name}", manifest, path)


CASES = (
    Case("mdep-minimal", model_deployment(), None),
    Case("mdep-full", FULL, None),
    Case("mdep-name-longest", model_deployment("a" * 40), None),
    Case("mdep-name-too-long", model_deployment("a" * 41), "metadata.name"),
    Case("mdep-name-starts-with-digit", model_deployment("1churn"), "metadata.name"),
    Case("mdep-name-with-dot", model_deployment("churn.v1"), "metadata.name"),
    _mdep("no-spec", "spec", lambda m: m.pop("spec")),
    _mdep("no-model", "spec.model", lambda m: m["spec"].pop("model")),
    _mdep("no-uri", "spec.model.uri", lambda m: m["spec"]["model"].pop("uri")),
    _mdep("unknown-field", "spec.replica", _spec(replica=2)),
    Case("mdep-container", CONTAINER, None),
    Case("mdep-container-alone", CONTAINER_ALONE, None),
    _mdep("container-without-image", "spec.container.image", _spec(container={"port": 80})),
    _container("one-port-for-two", "spec.container.grpcPort", container={"grpcPort": 8000}),
    _container("port-zero", "spec.container.port", container={"port": 0}),
    _container("path-relative", "spec.container.readinessPath", container={"readinessPath": "ready"}),
    _container("variable-twice", "spec.container.env[1]", container={"env": [{"name": "A"}, {"name": "A"}]}),
    _container(
        "variable-from-two",
        "spec.container.env[0]",
        container={"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
    ),
    _container("format", "spec.model", model={"uri": "pvc://models/churn", "format": "sklearn"}),
    _container("pickle", "spec.model", model={"uri": "pvc://models/churn", "allowPickle": True}),
    _container("batchable", "spec.model", model={"uri": "pvc://models/churn", "parameters": {"batchable": True}}),
    _container("workers", "spec.serving", serving={"workers": 2}),
    _container("cache", "spec.serving", serving={"cache": {"ttl": "1m"}}),
    _container("queue", "spec.serving", serving={"limits": {"maxQueue": 1}}),
    _container("defaults-written-out", None, serving={"workers": 1, "cache": {"ttl": "5m"}}),
    Case("mdep-autoscaled", AUTOSCALED, None),
    _mdep(
        "autoscaled-by-a-share-of-the-limit",
        None,
        _spec(resources={"limits": {"cpu": 1}}, autoscaling={"maxReplicas": 3, "targetCPUUtilization": 70}),
    ),
    _mdep(
        "autoscaled-without-a-cpu-request",
        "spec.autoscaling",
        _spec(resources={"requests": {"memory": "1Gi"}}, autoscaling={"maxReplicas": 3, "targetCPUUtilization": 70}),
    ),
    _mdep(
        "autoscaled-without-resources",
        "spec.autoscaling",
        _spec(autoscaling={"maxReplicas": 3, "targetCPUUtilization": 70}),
    ),
    _mdep(
        "autoscaled-and-replicas",
        "spec.replicas",
        _spec(
            replicas=2,
            resources={"limits": {"cpu": 1}},
            autoscaling={"maxReplicas": 3, "targetCPUUtilization": 70},
        ),
    ),
    _mdep(
        "autoscaled-downwards",
        "spec.autoscaling.minReplicas",
        _spec(
            resources={"limits": {"cpu": 1}},
            autoscaling={"minReplicas": 4, "maxReplicas": 3, "targetCPUUtilization": 70},
        ),
    ),
    _mdep(
        "autoscaled-to-zero",
        "spec.autoscaling.minReplicas",
        _spec(
            resources={"limits": {"cpu": 1}},
            autoscaling={"minReplicas": 0, "maxReplicas": 3, "targetCPUUtilization": 70},
        ),
    ),
    _mdep(
        "autoscaled-by-nothing",
        "spec.autoscaling.targetCPUUtilization",
        _spec(resources={"limits": {"cpu": 1}}, autoscaling={"maxReplicas": 3}),
    ),
    _mdep("field-of-the-future", "spec.priority", _spec(priority=1)),
    _mdep("unknown-nested-field", "spec.serving.limits.maxBody", _spec(serving={"limits": {"maxBody": 1}})),
    _mdep("replicas-negative", "spec.replicas", _spec(replicas=-1)),
    _mdep("rollout-of-one-pod-in-place", None, _spec(rollout={"maxSurge": 0, "maxUnavailable": 1})),
    _mdep("rollout-that-can't-move", "spec.rollout", _spec(rollout={"maxSurge": 0})),
    _mdep("rollout-that-can't-move-by-percent", "spec.rollout", _spec(rollout={"maxSurge": "0%"})),
    _mdep("rollback", None, _spec(rollout={"onFailure": "Rollback"})),
    _mdep("rollback-misspelt", "spec.rollout.onFailure", _spec(rollout={"onFailure": "RollBack"})),
    _mdep("surge-over-100-percent", "spec.rollout.maxSurge", _spec(rollout={"maxSurge": "101%"})),
    _mdep("surge-negative", "spec.rollout.maxSurge", _spec(rollout={"maxSurge": -1})),
    _mdep("surge-as-text", "spec.rollout.maxSurge", _spec(rollout={"maxSurge": "1"})),
    _mdep("deadline-too-short", "spec.rollout.progressDeadline", _spec(rollout={"progressDeadline": "1s"})),
    _mdep("service-account-in-capitals", "spec.serviceAccountName", _spec(serviceAccountName="Reader")),
    _mdep("pod-template-empty", None, _spec(podTemplate={})),
    _mdep("pod-template-any-field-of-a-pod", None, _spec(podTemplate={"spec": {"hostAliases": [{"ip": "10.0.0.1"}]}})),
    _mdep("pod-template-kind", "spec.podTemplate.kind", _spec(podTemplate={"kind": "Pod"})),
    _mdep("pod-template-name", "spec.podTemplate.metadata.name", _spec(podTemplate={"metadata": {"name": "x"}})),
    _mdep(
        "pod-template-label-of-ours",
        "spec.podTemplate.metadata.labels",
        _spec(podTemplate={"metadata": {"labels": {"modelyard.dev/name": "x"}}}),
    ),
    _mdep(
        "pod-template-container-without-name",
        "spec.podTemplate.spec.containers[0].name",
        _spec(podTemplate={"spec": {"containers": [{"image": "x"}]}}),
    ),
    _mdep(
        "pod-template-container-twice",
        "spec.podTemplate.spec.containers[1]",
        _spec(podTemplate={"spec": {"containers": [{"name": "runtime"}, {"name": "runtime"}]}}),
    ),
    _mdep("replicas-string", "spec.replicas", _spec(replicas="2")),
    _mdep("replicas-too-many", "spec.replicas", _spec(replicas=1001)),
    _uri("file", "file:///models/churn", None),
    _mdep("allow-pickle", None, lambda m: m["spec"]["model"].update(allowPickle=True, format="python")),
    _mdep("torch", None, lambda m: m["spec"]["model"].update(allowPickle=True, format="torch")),
    _mdep("allow-pickle-as-text", "spec.model.allowPickle", lambda m: m["spec"]["model"].update(allowPickle="true")),
    _mdep("not-batchable", None, lambda m: m["spec"]["model"].update(parameters={"batchable": False})),
    _mdep(
        "unknown-parameter", "spec.model.parameters.batch", lambda m: m["spec"]["model"].update(parameters={"batch": 1})
    ),
    _mdep("unknown-format", "spec.model.format", lambda m: m["spec"]["model"].update(format="tensorflow")),
    _uri("https", "https://models.example/churn.tar.gz", None),
    _uri("pvc", "pvc://models/churn/1", None),
    _uri("pvc-whole", "pvc://models/", None),
    _uri("file-with-spaces", "file:///models/my model", None),
    _uri("https-signed", "https://models.example:8443/churn.tar.gz?sig=a%2Fb&x='1'", None),
    _uri("https-with-a-space", "https://models.example/my churn.tar.gz"),
    _uri("https-highest-port", "https://models.example:65535/churn.tar.gz", None),
    _uri("https-no-such-port", "https://models.example:65536/churn.tar.gz"),
    _uri("https-with-a-password", "https://user:secret@models.example/churn.tar.gz"),
    _uri("s3-with-a-question-mark", "s3://models/churn?versionId=3"),
    _uri("s3-empty-part", "s3://models//churn"),
    _uri("s3-dot", "s3://models/./churn"),
    _uri("az-root-container", "az://$root/churn", None),
    _uri("oci-capitals", "oci://registry.example.com/Models/churn:4"),
    _uri("empty", ""),
    _uri("number", 4),
    _uri("unknown-scheme", "ftp://models.example/churn"),
    _uri("no-scheme", "models/churn"),
    _uri("s3", "s3://models/churn/4", None),
    _uri("gs", "gs://models/churn.tar.gz", None),
    _uri("az", "az://models/churn/", None),
    _uri("hf", "hf://acme/churn@main", None),
    _uri("hf-file", "hf://acme/churn@refs%2Fpr%2F1/models/model.skops", None),
    _uri("hf-without-revision", "hf://acme/churn"),
    _uri("hf-without-organisation", "hf://churn@main"),
    _uri("oci", "oci://registry.example.com/models/churn:4", None),
    _uri("oci-port-and-digest", "oci://registry.example.com:5000/churn@sha256:" + "0" * 64, None),
    _uri("oci-without-tag", "oci://registry.example.com/models/churn"),
    _uri("oci-port-but-no-tag", "oci://registry.example.com:5000/churn"),
    _uri("oci-without-repository", "oci://registry.example.com:5000"),
    _uri("oci-short-digest", "oci://registry.example.com/churn@sha256:00"),
    _uri("s3-without-key", "s3://models"),
    _uri("gs-without-bucket", "gs:///churn"),
    _uri("az-dot-dot", "az://models/../churn"),
    _uri("scheme-in-capitals", "S3://models/churn"),
    _credentials("s3", None),
    _credentials("for-pvc", "spec.model.credentials", uri="pvc://models/churn/1"),
    _credentials("for-https", "spec.model.credentials", uri="https://models.example/churn.skops"),
    _credentials("no-name", "spec.model.credentials.secretName", secret={}),
    _credentials("bad-name", "spec.model.credentials.secretName", secret={"secretName": "S3_read"}),
    _credentials("with-keys", "spec.model.credentials.token", secret={"secretName": "x", "token": "y"}),
    _uri("plain-http", "http://models.example/churn"),
    _uri("dot-dot", "pvc://models/../secrets"),
    _uri("dot-dot-at-the-end", "file:///models/.."),
    _uri("dots-in-a-name", "file:///models/a..b", None),
    _uri("file-relative", "file://models/churn"),
    _uri("pvc-without-path", "pvc://models"),
    _uri("pvc-without-claim", "pvc:///churn"),
    _uri("too-long", "https://models.example/" + "a" * 2048),
    _mdep("format-unknown", "spec.model.format", lambda m: m["spec"]["model"].update(format="keras")),
    _mdep("digest-short", "spec.model.digest", lambda m: m["spec"]["model"].update(digest="sha256:abc")),
    _mdep("version-with-space", "spec.model.version", lambda m: m["spec"]["model"].update(version="4 beta")),
    _mdep("version-number", "spec.model.version", lambda m: m["spec"]["model"].update(version=4)),
    _mdep("model-name-with-slash", "spec.model.name", lambda m: m["spec"]["model"].update(name="a/b")),
    _mdep("ttl-no-unit", "spec.serving.cache.ttl", _spec(serving={"cache": {"ttl": "30"}})),
    _mdep("timeout-zero", "spec.serving.limits.timeout", _spec(serving={"limits": {"timeout": "0s"}})),
    _mdep("drain-too-long", "spec.serving.drainDelay", _spec(serving={"drainDelay": "11m"})),
    _mdep("drain-one-year", "spec.serving.drainDelay", _spec(serving={"drainDelay": "8760h"})),
    _mdep("body-limit-tiny", "spec.serving.limits.maxBodyBytes", _spec(serving={"limits": {"maxBodyBytes": 10}})),
    _mdep("queue-zero", "spec.serving.limits.maxQueue", _spec(serving={"limits": {"maxQueue": 0}})),
    _mdep("batch-rows-zero", "spec.serving.batching.maxRows", _spec(serving={"batching": {"maxRows": 0}})),
    _mdep("batch-delay-long", "spec.serving.batching.maxDelay", _spec(serving={"batching": {"maxDelay": "11s"}})),
    _mdep("batch-delay-no-unit", "spec.serving.batching.maxDelay", _spec(serving={"batching": {"maxDelay": "5"}})),
    _mdep("warmup-negative", "spec.serving.warmup.requests", _spec(serving={"warmup": {"requests": -1}})),
    _mdep("workers-zero", "spec.serving.workers", _spec(serving={"workers": 0})),
    _mdep("workers-too-many", "spec.serving.workers", _spec(serving={"workers": 65})),
    _mdep("workers-as-text", "spec.serving.workers", _spec(serving={"workers": "2"})),
    _mdep("connection-age-a-week", "spec.serving.maxConnectionAge", _spec(serving={"maxConnectionAge": "168h"})),
    _mdep("cpu-word", "spec.resources.requests.cpu", _spec(resources={"requests": {"cpu": "two"}})),
    _mdep("cpu-negative", "spec.resources.limits.cpu", _spec(resources={"limits": {"cpu": -1}})),
    _mdep("unknown-top-level", "specs", lambda m: m.update(specs={})),
    Case("abt-minimal", abtest(), None),
    Case("abt-full", abtest(assignment={"header": "X-User", "salt": "s1"}, override={"header": "x-variant"}), None),
    _abt("weight-zero-for-one", None, lambda m: m["spec"]["variants"][1].update(weight=0)),
    _abt("same-model-twice", None, lambda m: m["spec"]["variants"][1].update(modelDeployment="churn")),
    _abt("weights-all-zero", "spec.variants", lambda m: [v.update(weight=0) for v in m["spec"]["variants"]]),
    _abt("weight-negative", "spec.variants[1].weight", lambda m: m["spec"]["variants"][1].update(weight=-1)),
    _abt("weight-missing", "spec.variants[1].weight", lambda m: m["spec"]["variants"][1].pop("weight")),
    _abt("weight-fraction", "spec.variants[0].weight", lambda m: m["spec"]["variants"][0].update(weight=0.5)),
    _abt("weight-string", "spec.variants[0].weight", lambda m: m["spec"]["variants"][0].update(weight="90")),
    _abt("variant-twice", "spec.variants[1]", lambda m: m["spec"]["variants"][1].update(name="current")),
    _abt("one-variant", "spec.variants", lambda m: m["spec"]["variants"].pop()),
    _abt(
        "nine-variants",
        "spec.variants",
        lambda m: m["spec"]["variants"].extend(
            {"name": f"v{i}", "modelDeployment": "churn", "weight": 1} for i in range(7)
        ),
    ),
    _abt("control-unknown", "spec.control", _spec(control="nobody")),
    _abt("control-missing", "spec.control", lambda m: m["spec"].pop("control")),
    _abt("no-assignment", "spec.assignment", lambda m: m["spec"].pop("assignment")),
    _abt("assignment-no-header", "spec.assignment.header", _spec(assignment={"salt": "x"})),
    _abt("header-with-colon", "spec.assignment.header", _spec(assignment={"header": "x:y"})),
    _abt("header-reserved", "spec.assignment.header", _spec(assignment={"header": "Host"})),
    _abt("header-of-envoy", "spec.override.header", _spec(override={"header": "X-Envoy-Variant"})),
    _abt("override-is-assignment", "spec.override.header", _spec(override={"header": "X-User-Id"})),
    _abt(
        "assignment-is-the-variant-header",
        "spec.assignment.header",
        _spec(assignment={"header": "x-modelyard-variant"}),
    ),
    _abt("salt-with-backslash", "spec.assignment.salt", _spec(assignment={"header": "x", "salt": "a\\1"})),
    _abt("cookie-not-yet", "spec.assignment.cookie", _spec(assignment={"header": "x", "cookie": "uid"})),
    _abt("steps-not-yet", "spec.steps", _spec(steps=[{"weights": {"gbm": 5}, "pause": "10m"}])),
    _abt("paused-not-yet", "spec.paused", _spec(paused=True)),
    _abt(
        "model-deployment-with-dot",
        "spec.variants[0].modelDeployment",
        lambda m: m["spec"]["variants"][0].update(modelDeployment="a.b"),
    ),
)
