"""ABTest: traffic split between two or more ModelDeployments by a salted hash of a request header."""

from __future__ import annotations

from typing import Annotated, Literal

from modelyard_runtime.contract import HEADER_PREDICTION_ID, HEADER_VARIANT
from pydantic import Field

from modelyard_operator.api.schema import MapBy, Name, Rule, Spec
from modelyard_operator.api.status import Conditions

__all__ = ["ABTestSpec", "ABTestStatus", "Assignment", "Override", "Variant", "is_reserved"]

# By the time a router looks at them, these do not hold what the client sent.
_RESERVED_HEADERS = (
    *("host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive"),
    *("proxy-connection", "expect", "cookie", "x-request-id", "x-forwarded-for", "x-forwarded-proto"),
    HEADER_PREDICTION_ID,
)


def is_reserved(header: str) -> bool:
    """Return whether a header's value is the connection's or the router's own, not the client's."""
    return header.lower() in _RESERVED_HEADERS or header.lower().startswith("x-envoy-")


_NOT_RESERVED = Rule(
    cel=f"!(self.lowerAscii() in {list(_RESERVED_HEADERS)}) && !self.lowerAscii().startsWith('x-envoy-')",
    check=lambda header: not is_reserved(header),
    message="this header does not reach the router as the client sent it: use one of your own, such as x-user-id",
)
HeaderName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$"), _NOT_RESERVED]
KeyHeaderName = Annotated[
    HeaderName,
    Rule(
        cel=f"self.lowerAscii() != '{HEADER_VARIANT}'",
        check=lambda header: header.lower() != HEADER_VARIANT,
        message=f"{HEADER_VARIANT} names a variant, not a user: use another header",
    ),
]


class Variant(Spec):
    """One arm of the test."""

    name: Name = Field(description="How the arm is called in answers, in status and in statistics.")
    model_deployment: Name = Field(description="The ModelDeployment, in the same namespace, that answers for this arm.")
    weight: int = Field(
        ge=0, le=1_000_000, description="The arm's share of the traffic, relative to the sum of all weights."
    )


class Assignment(Spec):
    """What decides which arm answers a request."""

    header: KeyHeaderName = Field(
        description="The request header whose value identifies a user; a request without it is sent to a random arm."
    )
    salt: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9._-]+$")] | None = Field(
        None,
        description="Hashed together with the key, so that two tests split users independently. "
        "The name of the ABTest unless given.",
    )


class Override(Spec):
    """How a request can ask for an arm."""

    header: HeaderName = Field(description="The request header whose value names the variant to answer.")


class ABTestSpec(Spec):
    """What a user asks for."""

    control: Name = Field(description="The name of the variant that the others are compared against.")
    variants: Annotated[tuple[Variant, ...], Field(strict=False, min_length=2, max_length=8), MapBy("name")] = Field(
        description="The arms; their order means nothing."
    )
    assignment: Assignment = Field(description="What decides which arm answers a request.")
    override: Override | None = Field(None, description="How a request can ask for an arm; off unless given.")

    rules = (
        Rule(
            cel="self.variants.exists(v, v.name == self.control)",
            check=lambda spec: any(variant.name == spec.control for variant in spec.variants),
            message="must be the name of one of spec.variants",
            field_path=".control",
        ),
        Rule(
            cel="self.variants.exists(v, v.weight > 0)",
            check=lambda spec: any(variant.weight > 0 for variant in spec.variants),
            message="all weights are 0: give at least one variant a weight above 0",
            field_path=".variants",
        ),
        Rule(
            cel="!has(self.override) || self.override.header.lowerAscii() != self.assignment.header.lowerAscii()",
            check=lambda spec: spec.override is None or spec.override.header.lower() != spec.assignment.header.lower(),
            message="must be another header than spec.assignment.header",
            field_path=".override.header",
        ),
    )


class VariantStatus(Spec):
    """One arm as it is served."""

    name: Name
    model_deployment: Name
    version: Annotated[str, Field(max_length=63)] | None = None


class ABTestStatus(Spec):
    """What the operator observed. `buckets` is the map of 10000 buckets as JSON: `[["current", 9000], …]`."""

    observed_generation: int | None = None
    phase: Literal["Pending", "Running"] | None = None
    url: Annotated[str, Field(max_length=512)] | None = None
    epoch: int | None = None
    weights: Annotated[dict[Annotated[str, Field(max_length=40)], int], Field(max_length=8)] | None = None
    weights_summary: Annotated[str, Field(max_length=512)] | None = None
    buckets: Annotated[str, Field(max_length=65536)] | None = None
    variants: Annotated[tuple[VariantStatus, ...], Field(strict=False, max_length=8), MapBy("name")] = ()
    conditions: Conditions = ()
