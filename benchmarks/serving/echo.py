"""The limit: a bare uvicorn application that reads the body and answers something small."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

ANSWER = b'{"prediction":1,"model_name":"m","model_version":"1","cached":false,"latency_ms":0.01}'
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())],
}
BODY = {"type": "http.response.body", "body": ANSWER}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole body, answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send(HEAD)
    await send(BODY)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off")
