"""What the tests of cached answers share: requests that ask for the cache, in OIP v2 and V1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
from unit.runtime.support import Api

Serve = Callable[..., Api]
INFER = "/v2/models/m/infer"
PREDICT = "/v1/models/m:predict"
ASK = {"parameters": {"use_cache": True}}


def tensor(*rows: Sequence[Any], datatype: str = "FP64") -> dict[str, Any]:
    return {"name": "features", "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": list(rows)}


def infer(api: Api, *rows: Sequence[Any], **fields: Any) -> httpx.Response:
    return api.predict({"inputs": [tensor(*(rows or ([1, 2],)))], **ASK, **fields}, INFER)


def predict(api: Api, *rows: Sequence[Any]) -> Any:
    return api.predict({"instances": list(rows), "use_cache": True}, PREDICT).json()


def outputs(body: Any) -> list[Any]:
    return [output["data"] for output in body["outputs"]]
