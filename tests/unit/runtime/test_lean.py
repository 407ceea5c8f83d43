"""A server that is asked only for what servers are usually asked for has no FastAPI in its memory."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc as triton
from unit.runtime.support import LOGISTIC, Server, start_server

HEAVY = {"fastapi", "starlette", "pydantic"}
NOTE_IMPORTS = """
import os, sys

class Note:
    def find_spec(self, name, path=None, target=None):
        with open(os.environ["NOTED_IMPORTS"], "a") as file:
            file.write(name + "\\n")

sys.meta_path.insert(0, Note())
"""


def ask_the_usual(server: Server) -> None:
    row = [[1.0, 2.0, 3.0, 4.0]]
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP64", "data": row[0]}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        answers = [
            client.post("/predict", json={"features": row[0], "use_cache": True}),
            client.post("/predict/batch", json={"instances": row}),
            client.post("/v2/models/churn/infer", json={"inputs": [tensor]}),
            client.post("/v1/models/churn:predict", json={"instances": row}),
            *(client.get(f"/health{path}") for path in ("", "/live", "/ready", "/serving")),
            *(client.get(f"/v2/health{path}") for path in ("/live", "/ready")),
            *(client.get("/metrics", headers={"accept": kind}) for kind in ("text/plain", "application/json")),
        ]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert client.post("/predict", json={"features": [1]}).status_code == 422
        assert client.post("/health").status_code == 405
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as rpc:
        asked = triton.InferInput("features", [1, 4], "FP64")
        asked.set_data_from_numpy(np.array(row))
        assert rpc.is_server_ready()
        assert rpc.infer("churn", [asked]).get_response().model_name == "churn"
        assert rpc.get_server_metadata().name == "modelyard"


def test_fastapi_is_imported_for_rare_routes_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTE_IMPORTS)
    noted = tmp_path / "imports"

    def imported() -> set[str]:
        return set(noted.read_text().split())

    with start_server(tmp_path, LOGISTIC, PYTHONPATH=str(tmp_path), NOTED_IMPORTS=str(noted)) as server:
        server.wait_for("/health/ready", 200)
        ask_the_usual(server)
        usual = imported()
        models = httpx.get(f"{server.url}/models", timeout=30).json()["models"]
        document = httpx.get(f"{server.url}/openapi.json", timeout=30).json()
        rare = imported()

    assert "modelyard_runtime.transport.grpc_server" in usual
    assert not usual & HEAVY
    assert [(model["name"], model["state"], model["format"]) for model in models] == [("churn", "ready", "logistic")]
    assert {"/predict", "/health/ready", "/metrics", "/models", "/v2/models/{name}"} <= set(document["paths"])
    assert rare >= HEAVY
