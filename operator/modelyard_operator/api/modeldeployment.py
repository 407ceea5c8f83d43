"""ModelDeployment: one model, served by a Deployment and a Service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from modelyard_runtime.contract import FORMATS, MAX_WORKERS, URI_FORMS
from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from modelyard_operator.api.pods import Autoscaling, Container, PodTemplate, Resources, Rollout
from modelyard_operator.api.schema import DurationString, Rule, Spec, between
from modelyard_operator.api.status import Conditions

__all__ = [
    "Batching",
    "Cache",
    "Credentials",
    "Limits",
    "Model",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "Parameters",
    "Serving",
    "Warmup",
    "uri_scheme",
]


def uri_scheme(uri: str) -> str:
    """Return the part before `://`, or an empty string."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


_SHOWN = ", ".join(form.shown for form in URI_FORMS.values())
_WITH_CREDENTIALS = tuple(scheme for scheme, form in URI_FORMS.items() if form.credentials)


def _any_of(schemes: Iterable[str], value: str = "self") -> str:
    return " || ".join(f"{value}.startsWith('{scheme}://')" for scheme in schemes)


def _has_form(scheme: str, uri: str) -> bool:
    return uri_scheme(uri) != scheme or re.fullmatch(URI_FORMS[scheme].pattern, uri) is not None


_URI_RULES = (
    Rule(
        cel=_any_of(URI_FORMS),
        check=lambda uri: uri_scheme(uri) in URI_FORMS,
        message=f"must start with one of {', '.join(f'{scheme}://' for scheme in URI_FORMS)}",
    ),
    Rule(
        cel="!self.split('/').exists(part, part == '.' || part == '..')",
        check=lambda uri: not {".", ".."} & set(uri.split("/")),
        message="must not contain '.' or '..' as a part of its path: write the path without it",
    ),
    *(
        Rule(
            cel=f"!self.startsWith('{scheme}://') || self.matches(r'^({form.pattern})$')",
            check=partial(_has_form, scheme),
            message=f"must be of the form {form.shown}: {form.rule}",
        )
        for scheme, form in URI_FORMS.items()
    ),
)

Uri = Annotated[str, Field(min_length=1, max_length=2048), *_URI_RULES]


def _format(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "must be one of " + ", ".join(FORMATS))
    return name


FormatName = Annotated[str, AfterValidator(_format), WithJsonSchema({"type": "string", "enum": list(FORMATS)})]


class Credentials(Spec):
    """What the artifact's storage asks for; only the init container gets it."""

    secret_name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] = (
        Field(
            description="A Secret in the same namespace, its keys named as the storage's own tools name their "
            "variables, such as AWS_ACCESS_KEY_ID."
        )
    )


class Parameters(Spec):
    """The author's knowledge of a model that its format can't have."""

    batchable: bool | None = Field(
        None,
        description="Whether rows are independent: true where the format can't know, after which a trial at load has "
        "to agree; false computes each request alone.",
    )


class Model(Spec):
    """Which artifact is served, and under which name."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.credentials) || {_any_of(_WITH_CREDENTIALS, 'self.uri')}",
            check=lambda model: model.credentials is None or uri_scheme(model.uri) in _WITH_CREDENTIALS,
            message=f"only for {', '.join(f'{scheme}://' for scheme in _WITH_CREDENTIALS)}: leave it out",
            field_path=".credentials",
        ),
    )

    uri: Uri = Field(description=f"Where the artifact is: {_SHOWN}; file:// is in the image.")
    name: (
        Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")] | None
    ) = Field(None, description="The served name, in paths and bodies; the name of the ModelDeployment unless given.")
    format: FormatName | None = Field(
        None, description="How the artifact is loaded; found from its files unless given."
    )
    version: (
        Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")] | None
    ) = Field(
        None,
        description="The version that answers carry; the first 12 hex digits of the artifact's digest unless given.",
    )
    digest: Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")] | None = Field(
        None, description="The digest that the artifact must have; another content is refused."
    )
    allow_pickle: bool = Field(
        False, description="Whether the artifact may run code of its own: joblib, pickle, python and torch need it."
    )
    parameters: Parameters = Field(
        default_factory=Parameters, description="What the artifact's author knows of the model, and its format can't."
    )
    credentials: Credentials | None = Field(
        None, description="What the artifact's storage asks for; only the init container gets it."
    )


class Cache(Spec):
    """The prediction cache, used only by requests that ask for it (`use_cache`)."""

    ttl: Annotated[DurationString, between("1ms", "24h")] = Field("5m", description="How long an answer is kept.")
    max_bytes: int = Field(
        16_777_216, ge=0, le=17_179_869_184, description="The most memory the cache takes; 0 turns it off."
    )


class Batching(Spec):
    """Requests that wait for a busy model are computed together."""

    max_rows: int = Field(
        64, ge=1, le=65536, description="The most rows that are computed together; 1: each request alone."
    )
    max_delay: Annotated[DurationString, between("0ms", "10s")] = Field(
        "0ms", description="How long a request waits for others where the model is idle; 0: not at all."
    )


class Warmup(Spec):
    """What a model does before it is ready."""

    requests: int = Field(1, ge=0, le=1000, description="Predictions that a model makes before its pod is ready.")


class Limits(Spec):
    """What a single request may ask for."""

    max_body_bytes: int = Field(
        33_554_432, ge=1024, le=1_073_741_824, description="A larger body is answered with 413."
    )
    max_queue: int = Field(
        256, ge=1, le=65536, description="Requests that may wait for a busy model; the next one is answered with 429."
    )
    timeout: Annotated[DurationString, between("10ms", "1h")] = Field(
        "30s", description="A request that takes longer is answered with 504."
    )


class Serving(Spec):
    """How the runtime answers."""

    cache: Cache = Field(
        default_factory=Cache, description="The prediction cache, used only by requests that ask for it (`use_cache`)."
    )
    batching: Batching = Field(
        default_factory=Batching, description="Requests that wait for a busy model are computed together."
    )
    limits: Limits = Field(default_factory=Limits, description="What a single request may ask for.")
    warmup: Warmup = Field(default_factory=Warmup, description="What a model does before it is ready.")
    workers: int = Field(
        1,
        ge=1,
        le=MAX_WORKERS,
        description="Processes of each pod that serve as one, to use more than one processor. Each has a copy of the "
        "model, a cache and a queue of its own, and its part of the pod's CPU limit.",
    )
    max_connection_age: Annotated[DurationString, between("0s", "24h")] = Field(
        "5m",
        description="How old a connection grows before it is closed, with an answer, so that clients spread over new "
        "pods; 0s: any age.",
    )
    drain_delay: Annotated[DurationString, between("0s", "10m")] = Field(
        "5s",
        description="How long a pod goes on accepting requests after it was told to stop. "
        "The grace period is this, plus the timeout, plus 10 s.",
    )


_OF_CONTAINERS: Mapping[str, Any] = {"drain_delay": True, "limits": {"timeout"}}
"""The part of `serving` that goes for containers of users' own."""


def _is_default(serving: Serving) -> bool:
    return serving.model_dump(exclude=_OF_CONTAINERS) == Serving().model_dump(exclude=_OF_CONTAINERS)


def _cel_is_default(value: Mapping[str, Any], path: str) -> str:
    """Return a CEL expression: whether each field at a path is absent, or as the API server fills it in."""
    terms = []
    for name, default in value.items():
        below = f"{path}.{name}"
        same = _cel_is_default(default, below) if isinstance(default, dict) else f"{below} == {json.dumps(default)}"
        terms.append(f"(!has({below}) || {same})")
    return "(" + " && ".join(terms) + ")"


def _requests_cpu(resources: Resources | None) -> bool:
    return resources is not None and ("cpu" in resources.requests or "cpu" in resources.limits)


class ModelDeploymentSpec(Spec):
    """What a user asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.model) || has(self.container)",
            check=lambda spec: spec.model is not None or spec.container is not None,
            message="is required, but with spec.container",
            field_path=".model",
        ),
        Rule(
            cel="!has(self.container) || !has(self.model) || !(has(self.model.format) "
            "|| (has(self.model.parameters) && has(self.model.parameters.batchable)) "
            "|| (has(self.model.allowPickle) && self.model.allowPickle))",
            check=lambda spec: (
                spec.container is None
                or spec.model is None
                or (spec.model.format, spec.model.parameters.batchable, spec.model.allow_pickle) == (None, None, False)
            ),
            message="format, parameters and allowPickle are for Modelyard's own server: leave them out",
            field_path=".model",
        ),
        Rule(
            cel="!has(self.container) || !has(self.serving) || "
            + _cel_is_default(Serving().model_dump(by_alias=True, exclude=_OF_CONTAINERS), "self.serving"),
            check=lambda spec: spec.container is None or _is_default(spec.serving),
            message="with spec.container only drainDelay and limits.timeout have a meaning: leave the others out",
            field_path=".serving",
        ),
        Rule(
            cel="!has(self.replicas) || !has(self.autoscaling)",
            check=lambda spec: spec.replicas is None or spec.autoscaling is None,
            message="with spec.autoscaling the autoscaler decides: leave one of the two out",
            field_path=".replicas",
        ),
        Rule(
            cel="!has(self.autoscaling) || (has(self.resources) && ("
            "(has(self.resources.requests) && 'cpu' in self.resources.requests) || "
            "(has(self.resources.limits) && 'cpu' in self.resources.limits)))",
            check=lambda spec: spec.autoscaling is None or _requests_cpu(spec.resources),
            message="targetCPUUtilization is a share of the CPU request: set spec.resources.requests.cpu",
            field_path=".autoscaling",
        ),
    )

    model: Model | None = Field(
        None, description="Which artifact is served, and under which name; may be left out with a container alone."
    )
    container: Container | None = Field(
        None,
        description="A server of your own in place of Modelyard's; the model, if given, is fetched to /mnt/model.",
    )
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="The number of pods. Not given: 1 at first, then what `kubectl scale` or an autoscaler makes of "
        "the Deployment.",
    )
    autoscaling: Autoscaling | None = Field(
        None,
        description="How the load decides on the number of pods (HorizontalPodAutoscaler), in place of replicas.",
    )
    resources: Resources | None = Field(
        None, description="Requests and limits of the runtime's container, as in a pod."
    )
    serving: Serving = Field(default_factory=Serving, description="How the runtime answers.")
    rollout: Rollout = Field(default_factory=Rollout, description="How new pods take the place of old ones.")
    service_account_name: Annotated[
        str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    ] = Field(
        "default",
        description="The ServiceAccount of the pods, for storages that know pods by it (workload identity).",
    )
    pod_template: PodTemplate | None = Field(
        None,
        description="Changes to the pods, merged as `kubectl patch` does (a strategic merge patch): the image of "
        "container `runtime`, environment, tolerations, volumes, sidecars.",
    )


class ServedModel(Spec):
    """The model that the ready pods serve."""

    uri: Annotated[str, Field(max_length=2048)]
    name: Annotated[str, Field(max_length=63)]
    version: Annotated[str, Field(max_length=63)]
    format: Annotated[str, Field(max_length=63)]
    digest: Annotated[str, Field(max_length=71)]


class ModelDeploymentStatus(Spec):
    """What the operator observed."""

    observed_generation: int | None = None
    url: Annotated[str, Field(max_length=512)] | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: Annotated[str, Field(max_length=512)] | None = None
    model: ServedModel | None = None
    conditions: Conditions = ()
