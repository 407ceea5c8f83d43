"""The seed API's inference: POST /predict and /predict/batch, from bytes to numpy to bytes."""

from __future__ import annotations

import time
from functools import partial

import orjson

from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.protocols.route import HotRoute, Parts
from modelyard_runtime.protocols.rows import MANY_ROWS, ONE_ROW, answer_rows
from modelyard_runtime.telemetry.statistics import Stages

__all__ = ["predict_routes"]


def predict_routes(parts: Parts) -> dict[str, HotRoute]:
    """Return the routes by path."""
    return {
        path: HotRoute("seed", parts, partial(answer_rows, parts, shape, partial(_body, name)), path, tells_wrong=True)
        for path, shape, name in (
            ("/predict", ONE_ROW, "prediction"),
            ("/predict/batch", MANY_ROWS, "predictions"),
        )
    }


def _body(name: str, served: ServedModel, stages: Stages, predictions: bytes) -> bytes:
    return orjson.dumps(
        {
            name: orjson.Fragment(predictions),
            "model_name": served.name,
            "model_version": served.version,
            "cached": stages.look is not None and stages.look.cached,
            "latency_ms": round((time.perf_counter_ns() - stages.arrived) / 1e6, 3),
        }
    )
