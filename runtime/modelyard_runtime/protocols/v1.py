"""The V1 protocol of TensorFlow Serving and KServe: POST /v1/models/{m}:predict."""

from __future__ import annotations

from collections.abc import Awaitable

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.protocols.route import Answer, Call, HotRoute, Parts
from modelyard_runtime.protocols.rows import MANY_ROWS, answer_rows
from modelyard_runtime.protocols.v2.infer import resolve_version
from modelyard_runtime.telemetry.statistics import Stages

__all__ = ["find_v1", "v1_route"]

_PREFIX = "/v1/models/"
_SUFFIX = ":predict"


def find_v1(path: str) -> tuple[str, str | None] | None:
    """Return the model and version that a prediction's path names; None for another path."""
    if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
        return None
    parts = path[len(_PREFIX) : -len(_SUFFIX)].split("/")
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[0] and parts[1] == "versions":
        return parts[0], parts[2]
    return None


def v1_route(parts: Parts, name: str, version: str | None) -> HotRoute:
    """Answer `{"instances": [...]}`, rows as lists or as objects of named values, with `{"predictions": [...]}`.

    With `"use_cache": true` beside the instances, `"cached"` in the answer says whether it came from the cache.
    """

    def handle(call: Call) -> Awaitable[Answer]:
        call.served = resolve_version(parts.registry, name, version)
        return answer_rows(parts, MANY_ROWS, _body, call)

    if version is None:
        return HotRoute("v1", parts, handle, "/v1/models/{model}:predict", {"model": name})
    names = {"model": name, "version": version}
    return HotRoute("v1", parts, handle, "/v1/models/{model}/versions/{version}:predict", names)


def _body(_: ServedModel, stages: Stages, predictions: bytes) -> bytes:
    look = stages.look
    if look is None:
        return b'{"predictions":' + predictions + b"}"
    return b'{"predictions":%b,"cached":%b}' % (predictions, b"true" if look.cached else b"false")
