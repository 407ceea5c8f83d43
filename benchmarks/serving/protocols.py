"""The protocols that servers are asked in: how rows are written as a request, and predictions read from its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

__all__ = ["PROTOCOLS", "ZERO_UUID", "Protocol", "Request"]

ZERO_UUID = "00000000-0000-0000-0000-000000000000"
"""The load generators put a fresh UUID in place of it."""

Rows = NDArray[np.float64]
_GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_INFER = "/v2/models/m/infer"


@dataclass(frozen=True)
class Request:
    """A body to post to a path; for gRPC, a message to a method."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    def http(self) -> bytes:
        """Return the whole HTTP/1.1 request."""
        head = {"Host": "localhost", "x-request-id": ZERO_UUID, **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Protocol:
    """One way to ask for predictions."""

    name: str
    request: Callable[[Rows], Request]
    """Rows of shape (rows, features) as a request."""
    predictions: Callable[[bytes], list[float]]
    """The predictions in an answer's body, one a row."""
    grpc: bool = False


def _json(path: str, data: Any) -> Request:
    return Request(path, json.dumps(data).encode())


def _predict(rows: Rows) -> Request:
    if len(rows) == 1:
        return _json("/predict", {"features": rows[0].tolist()})
    return _json("/predict/batch", {"instances": rows.tolist()})


def _predict_answer(body: bytes) -> list[float]:
    answer = json.loads(body)
    return list(answer["predictions"]) if "predictions" in answer else [answer["prediction"]]


def _tensor(rows: Rows) -> dict[str, Any]:
    return {"name": "predict", "shape": list(rows.shape), "datatype": "FP64"}


def _v2(rows: Rows) -> Request:
    return _json(_INFER, {"id": ZERO_UUID, "inputs": [_tensor(rows) | {"data": rows.tolist()}]})


def _v2_answer(body: bytes) -> list[float]:
    return list(json.loads(body)["outputs"][0]["data"])


def _v2_binary(rows: Rows) -> Request:
    raw = rows.tobytes()
    tensor = _tensor(rows) | {"parameters": {"binary_data_size": len(raw)}}
    document = {"id": ZERO_UUID, "inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Request(_INFER, head + raw, headers)


def _v2_binary_answer(body: bytes) -> list[float]:
    document, end = json.JSONDecoder().raw_decode(body[: body.rindex(b"}") + 1].decode())
    return _numbers(document["outputs"][0]["datatype"], body[end:])


def _numbers(datatype: str, raw: bytes) -> list[float]:
    names = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}
    return list(np.frombuffer(raw, names[datatype]).tolist())


def _grpc(rows: Rows) -> Request:
    message = service_pb2.ModelInferRequest(model_name="m", id=ZERO_UUID)
    message.inputs.add(name="predict", datatype="FP64", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    return Request(_GRPC_PATH, message.SerializeToString(), {})


def _grpc_answer(body: bytes) -> list[float]:
    answer = service_pb2.ModelInferResponse.FromString(body)
    output = answer.outputs[0]
    if answer.raw_output_contents:
        return _numbers(output.datatype, answer.raw_output_contents[0])
    contents = output.contents
    return [*contents.int64_contents, *contents.int_contents, *contents.fp64_contents, *contents.fp32_contents]


def _instances(path: str) -> Callable[[Rows], Request]:
    return lambda rows: _json(path, {"instances": rows.tolist()})


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("predict", _predict, _predict_answer),
        Protocol("v2", _v2, _v2_answer),
        Protocol("v2 binary", _v2_binary, _v2_binary_answer),
        Protocol("v1", _instances("/v1/models/m:predict"), lambda body: list(json.loads(body)["predictions"])),
        Protocol("gRPC", _grpc, _grpc_answer, grpc=True),
        Protocol("its own", _instances("/predict"), lambda body: list(json.loads(body))),
    )
}
