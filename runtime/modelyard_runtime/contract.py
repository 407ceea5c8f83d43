"""What the control plane and the data plane must agree on: the only module of the runtime that the operator imports.

Names of environment variables, ports, paths, headers and the form of termination messages. Standard library only, so
that importing it costs nothing and drags nothing in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = [
    "ANNOTATION_ROUTER_VERSION",
    "ANY_FORMAT",
    "ARTIFACT_DIR",
    "FORMATS",
    "GRPC_PORT",
    "HEADER_PREDICTION_ID",
    "HEADER_REQUEST_ID",
    "HEADER_ROUTER",
    "HEADER_TIMEOUT",
    "HEADER_VARIANT",
    "HTTP_PORT",
    "MAX_WORKERS",
    "METRICS_PATH",
    "PATH_LIVE",
    "PATH_READY",
    "PATH_SERVING",
    "PVC_MOUNT",
    "ROUTER_CONFIG_MOUNT",
    "ROUTER_HTTP_PORT",
    "ROUTER_READY_PATH",
    "ROUTER_RUN_MOUNT",
    "ROUTER_SIDECAR_PORT",
    "TERMINATION_LOG",
    "URI_FORMS",
    "VOLUME_MOUNT",
    "Env",
    "Failure",
    "FailureReason",
    "FetchReport",
    "RouterFile",
    "RouterPath",
    "UriForm",
    "parse_termination_message",
]

# scripts/generate writes this line, from the modules in formats/ that declare one.
FORMATS = ("catboost", "lightgbm", "linear", "logistic", "mlflow", "onnx", "python", "sklearn", "torch", "xgboost")

ANY_FORMAT = "any"  # of an artifact that another server reads

HTTP_PORT = 8080
GRPC_PORT = 9000
MAX_WORKERS = 64  # processes of one pod
METRICS_PATH = "/metrics"
PATH_LIVE = "/health/live"
PATH_READY = "/health/ready"  # for routers and balancers: fails at once at SIGTERM
PATH_SERVING = "/health/serving"  # for the kubelet: green while draining

VOLUME_MOUNT = "/mnt/model"  # an emptyDir that the init container fills: `artifact/` and `artifact.json`
ARTIFACT_DIR = "artifact"  # in VOLUME_MOUNT: the model's files
PVC_MOUNT = "/mnt/claim"  # where a pvc:// claim is mounted, read-only, in the init container
TERMINATION_LOG = "/dev/termination-log"

ROUTER_HTTP_PORT = 8080
ROUTER_SIDECAR_PORT = 9902
ROUTER_READY_PATH = "/-/ready"  # on ROUTER_HTTP_PORT, answered by Envoy itself: the kubelet's readiness probe
ROUTER_CONFIG_MOUNT = "/etc/modelyard/router"  # the ConfigMap NAME-router
ROUTER_RUN_MOUNT = "/run/modelyard"  # an emptyDir that Envoy and its sidecar share
ANNOTATION_ROUTER_VERSION = (
    "modelyard.dev/router-version"  # patched on router pods: the kubelet then refreshes the volume at once
)

HEADER_REQUEST_ID = "x-request-id"  # taken from the client or made, echoed in the answer, and in every line of the log
HEADER_TIMEOUT = "x-request-timeout-ms"  # the client's own deadline, whole milliseconds; never longer than ours
HEADER_VARIANT = "x-modelyard-variant"
HEADER_PREDICTION_ID = "x-modelyard-prediction-id"
HEADER_ROUTER = "x-modelyard-router"  # on a router's health checks: while they come, it still sends requests here


@dataclass(frozen=True)
class UriForm:
    """The form of the URIs of one storage scheme, which the CRD and the runtime ask for alike.

    `pattern` is a regular expression that RE2 (in CEL) and Python read alike, of the whole URI, with the groups `host`,
    `path` and `revision`, or `tag` and `digest`. Besides, no part of a path is `.` or `..`.
    """

    shown: str
    rule: str
    """The pattern in words."""
    pattern: str
    credentials: bool = True
    """Whether the scheme has credentials."""


def _objects(scheme: str, holder: str, names: str) -> UriForm:
    """Return the form of an object storage. A key that begins with a slash, or has an empty part, can't be a path."""
    return UriForm(
        f"{scheme}://{holder}/KEY",
        f"a {holder.lower()} and the key of a file or a prefix, without an empty part; write % ? # as %25 %3F %23",
        rf"{scheme}://(?P<host>{names})/(?P<path>[^/?#]+(/[^/?#]+)*)/?",
    )


_BUCKET = "[A-Za-z0-9][A-Za-z0-9._-]{1,221}"
_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = rf"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:{_PORT})?"
_TAG = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
URI_FORMS: Mapping[str, UriForm] = {
    "file": UriForm(
        "file:///PATH",
        "the absolute path of a file or folder; write % ? # as %25 %3F %23",
        "file://(localhost)?(?P<path>/+[^/?#][^?#]*)",
        credentials=False,
    ),
    "pvc": UriForm(
        "pvc://CLAIM/PATH",
        "the name of a claim and a path in it, / for all of it; write % ? # as %25 %3F %23",
        "pvc://(?P<host>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)(?P<path>/[^?#]*)",
        credentials=False,
    ),
    "https": UriForm(
        "https://HOST/PATH",
        "a host and the path of one file, percent-encoded, without a fragment",
        rf'https://(?P<host>{_HOST})(?P<path>/[!"$->@-~]+)([?][!"$-~]*)?',
        credentials=False,
    ),
    "s3": _objects("s3", "BUCKET", _BUCKET),
    "gs": _objects("gs", "BUCKET", _BUCKET),
    "az": _objects("az", "CONTAINER", rf"{_BUCKET}|[$](root|web)"),
    "hf": UriForm(
        "hf://ORG/REPO@REVISION",
        "a repository at a revision (`main` is the newest), and /PATH for a part of it; write a revision's / as %2F",
        "hf://(?P<host>[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)@(?P<revision>[A-Za-z0-9_.%-]+)(/(?P<path>[^?#]*))?",
    ),
    "oci": UriForm(
        "oci://REGISTRY/REPOSITORY:TAG",
        "a registry, a repository in lower case, and a tag or @sha256:DIGEST",
        rf"oci://(?P<host>{_HOST})/(?P<path>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
        rf"(:(?P<tag>{_TAG})|(:{_TAG})?@(?P<digest>sha256:[0-9a-f]{{64}}))",
    ),
}


class RouterFile(StrEnum):
    """Keys of the ConfigMap NAME-router, and so the names of files in its volume."""

    BOOTSTRAP = "bootstrap.json"
    CDS = "cds.json"
    RDS = "rds.json"
    BUCKETS = "buckets.json"
    VERSION = "version"


class RouterPath(StrEnum):
    """Routes of the sidecar on ROUTER_SIDECAR_PORT."""

    APPLIED = "/applied"  # {"version": str | null, "error": str | null}: what Envoy has acknowledged
    DRAIN = "/drain"  # the preStop hook: answers once Envoy's connections have ended
    STARTED = "/started"  # 200 once Envoy's files are written
    METRICS = "/metrics"  # Envoy's statistics in Prometheus' form


class Env(StrEnum):
    """Environment variables of the runtime and of the router's sidecar. Durations are seconds, sizes bytes."""

    MODEL_NAME = "MODELYARD_MODEL_NAME"
    MODEL_URI = "MODELYARD_MODEL_URI"
    MODEL_FORMAT = "MODELYARD_MODEL_FORMAT"
    MODEL_VERSION = "MODELYARD_MODEL_VERSION"
    MODEL_DIR = "MODELYARD_MODEL_DIR"
    ALLOW_PICKLE = "MODELYARD_ALLOW_PICKLE"  # true: formats that run the artifact's own code are loaded too
    CACHE_TTL = "MODELYARD_CACHE_TTL"
    CACHE_MAX_BYTES = "MODELYARD_CACHE_MAX_BYTES"
    MAX_BODY_BYTES = "MODELYARD_MAX_BODY_BYTES"
    TIMEOUT = "MODELYARD_TIMEOUT"
    DRAIN_DELAY = "MODELYARD_DRAIN_DELAY"
    BATCH_MAX_ROWS = "MODELYARD_BATCH_MAX_ROWS"
    BATCH_MAX_DELAY = "MODELYARD_BATCH_MAX_DELAY"
    MAX_QUEUE = "MODELYARD_MAX_QUEUE"
    MAX_CONNECTION_AGE = "MODELYARD_MAX_CONNECTION_AGE"
    WARMUP_REQUESTS = "MODELYARD_WARMUP_REQUESTS"
    LOG_FORMAT = "MODELYARD_LOG_FORMAT"  # plain or json
    LOG_LEVEL = "MODELYARD_LOG_LEVEL"  # info, or warning, or debug: a line for each request too
    # `modelyard serve` alone; without it, models are not changed
    ADMIN_TOKEN_FILE = "MODELYARD_ADMIN_TOKEN_FILE"  # noqa: S105 -- the name of a variable
    DOCKER_CONFIG_JSON = "MODELYARD_DOCKER_CONFIG_JSON"  # the .dockerconfigjson of the Secret, for oci:// only
    BATCHABLE = "MODELYARD_BATCHABLE"  # true or false: whether rows are independent, by the author's word
    HOST = "MODELYARD_HOST"  # the address to listen on; 0.0.0.0 unless given
    PORT = "MODELYARD_PORT"  # the port to listen on; HTTP_PORT unless given, any free one for 0
    GRPC_PORT = "MODELYARD_GRPC_PORT"  # for gRPC; GRPC_PORT unless given or PORT is another: then any free one
    SHORTCUTS = "MODELYARD_SHORTCUTS"  # off: every request takes the general way; for tests, and to hunt bugs
    WORKERS = "MODELYARD_WORKERS"  # processes that serve as one; 1 unless given
    DNS = "MODELYARD_DNS"  # ADDRESS:PORT of the resolver that Envoy asks; the machine's own unless given
    TERMINATION_LOG = (
        "MODELYARD_TERMINATION_LOG"  # the file for the termination message, where it is not TERMINATION_LOG
    )


class FailureReason(StrEnum):
    """Why a model did not come up; the same words stand in the ModelDeployment's conditions."""

    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    ACCESS_DENIED = "AccessDenied"
    DIGEST_MISMATCH = "DigestMismatch"
    UNSAFE_ARTIFACT = "UnsafeArtifact"
    UNKNOWN_FORMAT = "UnknownFormat"
    LOAD_FAILED = "LoadFailed"
    WARMUP_FAILED = "WarmupFailed"
    OUT_OF_MEMORY = "OutOfMemory"


@dataclass(frozen=True)
class Failure:
    """The termination message of a container that gave up: a reason, and what to do about it."""

    reason: str
    message: str

    def to_json(self) -> str:
        """Return the message, short enough for the 4096 bytes that Kubernetes keeps."""
        return json.dumps({"reason": self.reason, "message": self.message[:3000]})[:4096]


@dataclass(frozen=True)
class FetchReport:
    """The termination message of an init container that succeeded: what was fetched."""

    uri: str
    digest: str
    format: str
    version: str
    bytes: int

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps(asdict(self))


def parse_termination_message(text: str) -> Failure | FetchReport | None:
    """Read a termination message; None for one that is not ours (empty, or the kubelet's own words)."""
    try:
        data = json.loads(text)
        if "reason" in data:
            return Failure(reason=str(data["reason"]), message=str(data["message"]))
        return FetchReport(**data)
    except (ValueError, TypeError, KeyError):
        return None
