"""The base of every typed spec: strict parsing with the API server's field paths, and rules said once for both sides.

A rule holds a CEL expression, which the API server evaluates, and the same condition in Python, which local mode and
the operator evaluate. `tests/manifest_cases.py` proves on a real API server that the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

__all__ = [
    "NAME_LENGTH",
    "NAME_PATTERN",
    "DurationString",
    "FieldError",
    "InvalidManifest",
    "MapBy",
    "Name",
    "Rule",
    "Spec",
    "between",
    "parse_duration",
]

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LENGTH = 40


def parse_duration(text: str) -> float:
    """Return the seconds of a duration in the Gateway API's form (GEP-2257), such as `1m30s`."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with a manifest: where (`spec.variants[1].weight`), and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidManifest(ValueError):
    """A manifest that breaks the schema or a rule; `errors` lists each place."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(map(str, self.errors)))


@dataclass(frozen=True)
class Rule:
    """A condition on a field (as `Annotated` metadata) or on an object (in `Spec.rules`).

    `cel` is evaluated by the API server with `self` as the value; `check` is the same condition in Python.
    `field_path` moves the blame to a child, in CEL's form (`.control`).
    """

    cel: str
    check: Callable[[Any], bool]
    message: str
    field_path: str = ""

    def as_validation(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | ({"fieldPath": self.field_path} if self.field_path else {})

    def enforce(self, value: Any) -> Any:
        """Return the value, or raise pydantic's error that carries the message and the path."""
        if not self.check(value):
            raise PydanticCustomError("rule", "{message}", {"message": self.message, "field_path": self.field_path})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.enforce, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        result = dict(handler(schema))
        result["x-kubernetes-validations"] = [*result.get("x-kubernetes-validations", []), self.as_validation()]
        return result


@dataclass(frozen=True)
class MapBy:
    """Marks a list (as `Annotated` metadata) as a map by `key`: merged by that key, and a second one is refused."""

    key: str

    def enforce(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the items, or raise pydantic's error that names the second holder of a key."""
        seen: set[Any] = set()
        for index, item in enumerate(items):
            value = getattr(item, self.key)
            if value in seen:
                message = f"{self.key} {value!r} is there twice: give each its own"
                raise PydanticCustomError("rule", "{message}", {"message": message, "field_path": f"[{index}]"})
            seen.add(value)
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.enforce, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(handler(schema)) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


class Spec(BaseModel):
    """Base of every object in the API: camelCase outside, unknown fields refused, values never coerced."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        strict=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _enforce_rules(self) -> Self:
        for rule in self.rules:
            rule.enforce(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        result = dict(handler.resolve_ref_schema(handler(schema)))
        if cls.rules:
            result["x-kubernetes-validations"] = [rule.as_validation() for rule in cls.rules]
        return result

    @classmethod
    def parse(cls, value: Any, path: str = "spec") -> Self:
        """Return the typed form of a manifest's part; raise InvalidManifest with the API server's field paths."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InvalidManifest(_field_error(path, detail) for detail in error.errors(include_url=False)) from None


def _field_error(root: str, detail: ErrorDetails) -> FieldError:
    context = detail.get("ctx", {})
    path = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
    path += str(context.get("field_path", ""))
    message = str(detail["msg"])
    if detail["type"] == "missing":
        message = "is required"
    elif detail["type"] == "extra_forbidden":
        message = "unknown field: check its spelling and the indentation (`kubectl explain` lists the fields)"
    return FieldError(path, message)


Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=NAME_PATTERN)]


DurationString = Annotated[str, Field(min_length=2, max_length=24, pattern=DURATION_PATTERN)]


def between(low: str, high: str) -> Rule:
    """Return the rule that a duration lies between two others, both included."""
    return Rule(
        cel=f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
        check=lambda text: parse_duration(low) <= parse_duration(text) <= parse_duration(high),
        message=f"must be a duration from {low} to {high}, such as 30s or 1m30s",
    )
