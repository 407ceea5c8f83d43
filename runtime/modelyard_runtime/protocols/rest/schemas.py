"""The bodies of inference and health routes, as the OpenAPI document describes them.

Requests are read by the protocols' own readers (protocols/rows.py, protocols/v2/request.py), whose errors say what was
wrong and which take seconds where pydantic takes minutes; these models only describe them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BatchRequest",
    "BatchResponse",
    "ErrorBody",
    "Health",
    "InferRequest",
    "InferResponse",
    "PredictRequest",
    "PredictResponse",
    "ServerHealth",
    "V1Request",
    "V1Response",
]

Row = list[float | str | bool | None] | dict[str, float | str | bool | None]
Prediction = float | str | bool | list[Any]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
    "BYTES",
]  # fmt: skip

_MODEL_NAME = "May be left out where one model is served."
_USE_CACHE = "Take the answer from the cache where it is there, and keep it there."
_CACHED = "There for requests with use_cache: whether the answer comes from the cache."
_ROW = "Values in the model's order, or by name where the model knows the names of its features."


class ErrorBody(BaseModel):
    """Every error, whatever the route: what was wrong, and what to do."""

    error: str


class _Described(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class PredictRequest(_Described):
    """One row."""

    model_name: str | None = Field(None, description=_MODEL_NAME)
    features: Row = Field(description=_ROW, examples=[[5.1, 3.5, 1.4, 0.2]])
    use_cache: bool = Field(False, description=_USE_CACHE)


class _Response(_Described):
    model_name: str
    model_version: str
    cached: bool
    latency_ms: float = Field(description="From the request's arrival to this answer.")


class PredictResponse(_Response):
    """The prediction for one row: a number or a label; a list of them for a model of several outputs."""

    prediction: Prediction


class BatchRequest(_Described):
    """Many rows."""

    model_name: str | None = Field(None, description=_MODEL_NAME)
    instances: list[Row] = Field(min_length=1, description=_ROW, examples=[[[5.1, 3.5, 1.4, 0.2]]])
    use_cache: bool = Field(False, description=_USE_CACHE)


class BatchResponse(_Response):
    """A prediction for each row, in order."""

    predictions: list[Prediction]


class V1Request(_Described):
    """Many rows, by the V1 protocol."""

    instances: list[Row] = Field(min_length=1, description=_ROW)
    use_cache: bool = Field(False, description=_USE_CACHE)


class V1Response(_Described):
    """A prediction for each row, in order."""

    predictions: list[Prediction]
    cached: bool | None = Field(None, description=_CACHED)


class InferTensor(_Described):
    """A tensor, row-major."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(
        None, description="Nested or flat; absent where parameters.binary_data_size tells of raw bytes."
    )


class InferParameters(_Described):
    """Parameters of a request; others are taken and have no meaning."""

    model_config = ConfigDict(extra="allow")

    binary_data_output: bool = Field(False, description="Raw outputs, unless they say otherwise.")
    timeout: int | None = Field(None, ge=0, description="Microseconds that the client waits.")
    use_cache: bool = Field(False, description=_USE_CACHE)


class OutputWish(_Described):
    """An output to return."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(_Described):
    """An inference request of the Open Inference Protocol."""

    id: str | None = None
    parameters: InferParameters | None = None
    inputs: list[InferTensor] = Field(
        min_length=1, description="The model's inputs, or one of shape [rows] for each of its named features."
    )
    outputs: list[OutputWish] | None = Field(
        None, description="The outputs to return; absent: all but those made on request."
    )


class CachedParameter(_Described):
    """Parameters of a response."""

    cached: bool = Field(description=_CACHED)


class InferResponse(_Described):
    """An inference response of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: CachedParameter | None = None
    outputs: list[InferTensor]


class Health(BaseModel):
    """`ready`, `loading`, `failed`, `unloaded`, `stuck` or `draining` (`live` for the process), and each model's state.

    Models that were unloaded don't count, unless all are.
    """

    status: str
    models: dict[str, str]


class ServerHealth(BaseModel):
    """Whether the process lives, and whether it takes requests."""

    live: bool
    ready: bool
