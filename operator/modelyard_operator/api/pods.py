"""How the pods of a ModelDeployment are sized, placed and replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from modelyard_operator.api.schema import DurationString, MapBy, Rule, Spec, between

__all__ = [
    "Autoscaling",
    "Container",
    "ContainerPatch",
    "PodMetadataPatch",
    "PodSpecPatch",
    "PodTemplate",
    "Resources",
    "Rollout",
]

_QUANTITY = r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$"
_PERCENT = r"^(100|[1-9]?[0-9])%$"


def _number_or(pattern: str, maximum: int, message: str) -> Callable[[object], str | int]:
    def check(value: object) -> str | int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum:
            return value
        if isinstance(value, str) and len(value) <= 32 and re.match(pattern, value):
            return value
        raise PydanticCustomError("quantity", "{message}", {"message": message})

    return check


def _int_or_string(pattern: str, maximum: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "minimum": 0,
            "maximum": maximum,
            "pattern": pattern,
        }
    )


_LARGEST = 2**53
_MOST_PODS = 1000
Quantity = Annotated[
    str | int,
    PlainValidator(_number_or(_QUANTITY, _LARGEST, "must be a quantity of Kubernetes, such as 500m or 256Mi")),
    _int_or_string(_QUANTITY, _LARGEST),
]
Quantities = Annotated[dict[Annotated[str, Field(max_length=63)], Quantity], Field(max_length=16)]
PodCount = Annotated[
    str | int,
    PlainValidator(_number_or(_PERCENT, _MOST_PODS, "must be a number of pods, or a percentage such as 25%")),
    _int_or_string(_PERCENT, _MOST_PODS),
]


class Resources(Spec):
    """Requests and limits of the runtime's container, as in a pod."""

    requests: Quantities = Field(default_factory=dict, description="What the scheduler sets aside.")
    limits: Quantities = Field(default_factory=dict, description="What the container may not pass.")


class Autoscaling(Spec):
    """How many pods there are, decided by their load."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            check=lambda autoscaling: autoscaling.min_replicas <= autoscaling.max_replicas,
            message="must be at most maxReplicas",
            field_path=".minReplicas",
        ),
    )

    min_replicas: int = Field(1, ge=1, le=_MOST_PODS, description="The fewest pods.")
    max_replicas: int = Field(ge=1, le=_MOST_PODS, description="The most pods.")
    target_cpu_utilization: int = Field(
        ge=1,
        le=1000,
        alias="targetCPUUtilization",
        description="The percentage of its CPU request that a pod's runtime is to use on average.",
    )


class Rollout(Spec):
    """How new pods take the place of old ones."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # Defaults are checked without those of the fields inside them.
            cel="!has(self.maxSurge) || !has(self.maxUnavailable) || !((self.maxSurge == 0 || self.maxSurge == '0%') "
            "&& (self.maxUnavailable == 0 || self.maxUnavailable == '0%'))",
            check=lambda rollout: rollout.max_surge not in (0, "0%") or rollout.max_unavailable not in (0, "0%"),
            message="with maxSurge 0 and maxUnavailable 0 no pod could ever be replaced: raise one of them",
        ),
    )

    max_surge: PodCount = Field("25%", description="The most pods above the wanted number: a number or a percentage.")
    max_unavailable: PodCount = Field(
        0, description="The most pods that may be missing meanwhile: a number or a percentage."
    )
    progress_deadline: Annotated[DurationString, between("10s", "24h")] = Field(
        "10m",
        description="How long a rollout, and each new pod's start, may go without progress before it has failed.",
    )
    on_failure: Literal["Rollback", "Hold"] = Field(
        "Hold",
        description="What becomes of a rollout whose new pods fail or that passed its deadline. Rollback: the last "
        "spec that was Ready runs again, until this one is edited. Hold: it stays as it is, old pods serving.",
    )


_ABSOLUTE = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[^\s]*$")]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Words = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(strict=False, max_length=256)]


class _Patch(Spec):
    """Part of a pod: fields that are not named here are Kubernetes' own, and its API server checks them."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})


class Variable(Spec):
    """A variable of the container's environment, as in a pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.value) || !has(self.valueFrom)",
            check=lambda variable: variable.value is None or variable.value_from is None,
            message="give value or valueFrom, not both",
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^=]+$")]
    value: Annotated[str, Field(max_length=32768)] | None = None
    value_from: _Patch | None = Field(None, description="Where the value is taken from, as in a pod.")


class Metrics(Spec):
    """Where the container tells its metrics to Prometheus."""

    port: _Port = Field(description="The port.")
    path: _ABSOLUTE = Field("/metrics", description="The path.")


class Container(Spec):
    """A server of your own in place of Modelyard's: any image that answers HTTP."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.grpcPort) || !has(self.port) || self.grpcPort != self.port",
            check=lambda container: container.grpc_port != container.port,
            message="must be another port than port",
            field_path=".grpcPort",
        ),
    )

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")] = Field(description="The image.")
    command: _Words | None = Field(None, description="In place of the image's entrypoint.")
    args: _Words | None = Field(None, description="In place of the image's arguments.")
    env: Annotated[tuple[Variable, ...], Field(strict=False, max_length=128), MapBy("name")] | None = Field(
        None, description="Variables of its environment, as in a pod."
    )
    port: _Port = Field(8080, description="The port that answers HTTP: port 80 of the Service.")
    grpc_port: _Port | None = Field(None, description="The port that answers gRPC: port 9000 of the Service.")
    readiness_path: _ABSOLUTE | None = Field(
        None, description="A GET of it is answered with 200 once requests are; not given: once the port is open."
    )
    metrics: Metrics | None = Field(None, description="Where it tells its metrics to Prometheus.")


LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
_RESERVED = Rule(
    cel="!self.exists(key, key.startsWith('modelyard.dev/'))",
    check=lambda strings: not any(key.startswith("modelyard.dev/") for key in strings),
    message="names that begin with modelyard.dev/ are Modelyard's own: choose another",
)
_Strings = Annotated[dict[LabelKey, Annotated[str, Field(max_length=4096)]], Field(max_length=64), _RESERVED]


class PodMetadataPatch(Spec):
    """Labels and annotations of the pods."""

    labels: _Strings | None = Field(None, description="Labels that the pods get besides their own.")
    annotations: _Strings | None = Field(None, description="Annotations that the pods get besides their own.")


class ContainerPatch(_Patch):
    """Changes to the container of this name, or one more container."""

    name: Annotated[str, Field(min_length=1, max_length=63)]


_Containers = Annotated[tuple[ContainerPatch, ...], Field(strict=False, max_length=32), MapBy("name")]


class PodSpecPatch(_Patch):
    """Changes to the pods' spec."""

    containers: _Containers | None = Field(
        None, description="`runtime` is the model's own container; any other is a sidecar."
    )
    init_containers: _Containers | None = Field(None, description="`fetch` is the container that gets the artifact.")


class PodTemplate(Spec):
    """Changes to the pods, merged as `kubectl patch` does (a strategic merge patch)."""

    metadata: PodMetadataPatch | None = Field(None, description="Labels and annotations of the pods.")
    spec: PodSpecPatch | None = Field(None, description="Any field of a pod's spec.")

    def as_patch(self) -> dict[str, Any]:
        """Return the patch as it was given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
