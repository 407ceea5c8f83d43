"""Conditions: what every status reports, one entry per question."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.api.schema import MapBy, Spec

__all__ = ["Condition", "Conditions"]


class Condition(Spec):
    """One answer, in the form of `metav1.Condition`; all of ours are positive (True is good)."""

    type: Annotated[str, Field(max_length=63)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z]([A-Za-z0-9]*)$")]
    message: Annotated[str, Field(max_length=4096)]
    observed_generation: int
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


Conditions = Annotated[tuple[Condition, ...], Field(strict=False, max_length=16), MapBy("type")]
