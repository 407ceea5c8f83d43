"""Several workers serve as one: the same numbers and the same health whoever is asked, and no request is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.contract import Env
from modelyard_runtime.http.drain import Drain
from modelyard_runtime.settings import Settings
from modelyard_runtime.workers.shared_state import SharedState
from modelyard_runtime.workers.supervisor import _SILENT_TURNS, _Supervisor
from unit.runtime.support import SUM, Server, start_server
from waiting import eventually

BODY = {"features": [1, 2]}
TENSOR = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}
TWO: dict[str, Any] = {"MODELYARD_WORKERS": "2"}
WAITING = """
import json, os, pathlib, time

class Model:
    features = 2

    def load(self, folder):
        member = json.loads(os.environ["MODELYARD_WORKER"])
        for state in ("returning", "first")[not member["returning"]:]:
            while member["index"] == 1 and not pathlib.Path(GATES, state).exists():
                time.sleep(0.01)

    def predict(self, rows):
        return rows.sum(axis=1)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as it is."""
    with start_server(tmp_path_factory.mktemp("server"), SUM, **TWO) as started:
        started.wait_for("/health/ready", 200)
        yield started


@contextmanager
def connected(server: Server, count: int = 2) -> Iterator[list[httpx.Client]]:
    """Give a client with one connection to each worker: they are told apart by the ids that they make."""
    found: dict[str, httpx.Client] = {}
    keep = httpx.Limits(keepalive_expiry=60)  # a new connection could meet another worker
    with ExitStack() as stack:
        while len(found) < count:
            client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60, limits=keep))
            found.setdefault(worker_of(client.get("/health/live")), client)
        yield list(found.values())


def worker_of(response: httpx.Response) -> str:
    return response.headers["x-request-id"].partition("-")[0]


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def requests_in(text: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith("modelyard_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def sample(text: str, name: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return float(line.rpartition(" ")[2])


def counted(client: httpx.Client) -> list[float]:
    """Return the requests that each form of the numbers shows."""
    accept = {"accept": "application/json"}
    open_metrics = {"accept": "application/openmetrics-text"}
    return [
        requests_in(client.get("/metrics").text),
        requests_in(client.get("/metrics", headers=open_metrics).text),
        client.get("/metrics", headers=accept).json()["request_count"],
        client.get("/models/churn").json()["counts"]["request_count"],
    ]


def test_all_workers_show_the_same_numbers_and_those_are_the_requests(server: Server) -> None:
    with connected(server) as clients:
        before = counted(clients[0])
        for number, client in enumerate(clients, start=1):
            for _ in range(10 * number):
                assert client.post("/predict", json=BODY).json()["prediction"] == 3.0

        shown = [counted(client) for client in clients]

    assert shown == [[value + 30 for value in before]] * 2


def test_gauges_are_those_of_all_workers(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    with connected(server) as clients, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((server.host, server.port))) for _ in range(16)]
        for connection in held:
            connection.sendall(head)
        shown = 0.0
        while shown < len(held):
            shown, other = (sample(client.get("/metrics").text, "modelyard_in_flight_requests") for client in clients)
        text = clients[0].get("/metrics").text

    assert (shown, other) == (16, 16)
    assert sample(text, "modelyard_model_info") == 1
    assert sample(text, "process_start_time_seconds") <= time.time()
    assert sample(text, "process_resident_memory_bytes") > sum(w.memory_info().rss for w in workers(server)) / 2


def test_statistics_are_those_of_all_workers(server: Server) -> None:
    def shown(client: httpx.Client) -> tuple[int, int, int]:
        (model,) = client.get("/v2/models/churn/stats").json()["model_stats"]
        return (
            model["inference_count"],
            model["inference_stats"]["success"]["count"],
            model["batch_stats"][0]["compute_infer"]["count"],
        )

    with connected(server) as clients, triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as rpc:
        before = shown(clients[0])[0]  # other tests have asked already
        for client in clients:
            for _ in range(5):
                client.post("/v2/models/churn/infer", json=TENSOR).raise_for_status()
        inputs = triton.InferInput("features", [1, 2], "FP64")
        inputs.set_data_from_numpy(np.array([[1.0, 2.0]]))
        rpc.infer("churn", [inputs])

        over_http = [shown(client) for client in clients]
        over_grpc = rpc.get_inference_statistics("churn", as_json=True)["model_stats"][0]

    assert over_http == [(before + 11,) * 3] * 2
    assert (over_grpc["inference_count"], over_grpc["inference_stats"]["success"]["count"]) == (str(before + 11),) * 2


@contextmanager
def start_waiting(folder: Path) -> Iterator[tuple[Server, Path]]:
    """Start a server whose second worker loads when there is a file `first` in the folder, or `returning`."""
    gates = folder / "gates"
    gates.mkdir()
    source = folder / "source"
    source.mkdir()
    (source / "model.py").write_text(WAITING.replace("GATES", repr(str(gates))))
    fetch(source.as_uri(), folder / "volume", allow_pickle=True)
    with start_server(folder, MODELYARD_ALLOW_PICKLE="true", **TWO) as server:
        yield server, gates


def test_health_is_green_once_every_worker_is_ready(tmp_path: Path) -> None:
    with start_waiting(tmp_path) as (server, gates):
        server.wait_for("/health/live", 200)
        with connected(server) as clients, triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as rpc:
            eventually(
                lambda: {client.post("/predict", json=BODY).status_code for client in clients},
                lambda statuses: statuses == {200, 503},
                "the first worker to be ready",
            )
            paths = ("/health/ready", "/health/serving", "/v2/health/ready")
            early = [client.get(path).status_code for client in clients for path in paths]
            early_rpc = rpc.is_server_ready()

            (gates / "first").touch()
            server.wait_for("/health/ready", 200)
            late = [client.get(path).status_code for client in clients for path in paths]
            late_rpc = rpc.is_server_ready()

    assert (early, early_rpc) == ([503] * 6, False)
    assert (late, late_rpc) == ([200] * 6, True)


def test_a_worker_that_is_killed_comes_back_and_nobody_else_notices(tmp_path: Path) -> None:
    with start_waiting(tmp_path) as (server, gates):
        (gates / "first").touch()
        server.wait_for("/health/ready", 200)
        killed = max(workers(server), key=lambda process: json.loads(process.environ()["MODELYARD_WORKER"])["index"])
        with connected(server) as clients:
            for client in clients:
                for _ in range(10):
                    client.post("/predict", json=BODY)
            before = counted(clients[0])
            infer = clients[0].post("/v2/models/churn/infer", json=TENSOR)
            infer.raise_for_status()
            stats = clients[0].get("/v2/models/churn/stats").json()["model_stats"][0]["inference_count"]
        killed.kill()
        killed.wait(60)
        eventually(lambda: len(workers(server)) == 2, what="the new worker")

        # The new worker waits for its gate: it must not take connections.
        seen = set()
        for _ in range(40):
            answer = httpx.post(f"{server.url}/predict", json=BODY)
            assert (answer.status_code, server.status("/health/serving")) == (200, 200)
            seen.add(worker_of(answer))
        with connected(server, 1) as clients:
            meanwhile = counted(clients[0])
            meanwhile_stats = clients[0].get("/v2/models/churn/stats").json()["model_stats"][0]["inference_count"]
        (gates / "returning").touch()
        with connected(server) as clients:
            after = [counted(client) for client in clients]
            ready = [client.get("/health/ready").status_code for client in clients]

    assert len(seen) == 1
    assert before[0] == 20
    assert meanwhile == [value + 41 for value in before]
    assert after == [meanwhile] * 2
    assert (stats, meanwhile_stats) == (21, 61)
    assert ready == [200, 200]


def test_a_worker_that_stands_still_does_not_hold_the_numbers_up(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, **TWO) as server:
        server.wait_for("/health/ready", 200)
        with connected(server) as clients:
            for client in clients:
                client.post("/predict", json=BODY)
            before = counted(clients[0])
            still = workers(server)[0]
            still.suspend()
            try:
                for client in clients:
                    client.timeout = httpx.Timeout(4)
                answered = []
                for client in clients:
                    try:
                        answered.append(counted(client))
                    except httpx.TimeoutException:
                        continue
            finally:
                still.resume()

    assert answered == [before]
    assert before == [2, 2, 2, 2]


def test_a_worker_that_stands_still_gets_no_new_connections(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, **TWO) as server:
        server.wait_for("/health/ready", 200)
        still = workers(server)[0]
        still.suspend()
        try:
            answers = [httpx.post(f"{server.url}/predict", json=BODY, timeout=30) for _ in range(20)]
        finally:
            still.resume()

    assert [answer.json()["prediction"] for answer in answers] == [3.0] * 20


def test_a_worker_that_is_told_to_end_alone_leaves_the_port_to_the_others(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="0", **TWO) as server:
        server.wait_for("/health/ready", 200)
        leaving = workers(server)[0]
        leaving.terminate()

        while leaving.is_running():
            assert httpx.post(f"{server.url}/predict", json=BODY, timeout=30).json()["prediction"] == 3.0
        assert httpx.post(f"{server.url}/predict", json=BODY, timeout=30).json()["prediction"] == 3.0


def test_a_worker_whose_loop_stands_still_is_killed(tmp_path: Path) -> None:
    """After 30 turns of the supervisor, counted by it: a machine that slept is no reason."""
    settings = Settings(model_name="m", workers=1)
    with socket.socket() as listener:
        supervisor = _Supervisor(settings, {}, [sys.executable], tmp_path, listener)
    with subprocess.Popen(["sleep", "1000"]) as process:
        supervisor._slots[0].pid = process.pid
        supervisor._state.set_ready(0, ready=True)
        for _ in range(_SILENT_TURNS):
            supervisor._state.beat(0)
            supervisor._look_after()
        alive = process.poll()

        for _ in range(_SILENT_TURNS):
            supervisor._look_after()

        assert process.wait(60) == -signal.SIGKILL
    assert alive is None


def test_at_sigterm_every_worker_says_that_it_ends_and_answers_on(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="1000", **TWO) as server:
        server.wait_for("/health/ready", 200)
        server.process.terminate()

        ending: set[str] = set()  # each takes a signal of its own, one before the other
        while len(ending) < 2:
            ready = httpx.get(f"{server.url}/health/ready")
            if ready.status_code == 503:
                ending.add(worker_of(ready))
            assert (worker_of(ready) in ending, server.status("/health/serving")) == (ready.status_code == 503, 200)
            assert httpx.post(f"{server.url}/predict", json=BODY).json()["prediction"] == 3.0
        server.process.terminate()  # the second signal skips the rest of the delay

        assert server.finish() == 0


def test_a_router_that_checks_one_worker_has_all_on_its_list(tmp_path: Path) -> None:
    SharedState.create(tmp_path, 2)
    now = 100.0
    one, other = (Drain(lambda: now, checks=SharedState(tmp_path, 2)) for _ in range(2))
    assert not other.routed

    one.on_router_check()

    assert other.routed
    now = 103.1
    assert not other.routed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_models_load_ends_at_once(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    os.mkfifo(tmp_path / "volume" / "artifact.json")
    with start_server(tmp_path, MODELYARD_DRAIN_DELAY="1000", **TWO) as server:
        server.wait_for("/health/live", 200)

        server.process.send_signal(number)

        assert server.finish() == 0


def test_a_supervisor_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, **TWO) as server:
        server.wait_for("/health/ready", 200)
        orphans = workers(server)

        server.process.kill()
        server.finish()

        _, alive = psutil.wait_procs(orphans, timeout=60)
    assert len(orphans) == 2
    assert alive == []


def test_a_model_that_does_not_load_leaves_the_reason_that_one_process_leaves(tmp_path: Path) -> None:
    with start_server(tmp_path, {"type": "linear", "weights": ["x"]}, **TWO) as server:
        _, log = server.process.communicate(timeout=60)

        failure = json.loads(server.termination_log.read_text())
        assert server.process.returncode == 1
        assert failure == {"reason": "LoadFailed", "message": "weights of model.json needs to be made of numbers only"}
        assert log.count(failure["message"]) == 1
        assert "Traceback" not in log


def test_a_worker_that_is_killed_before_all_are_ready_ends_the_server(tmp_path: Path) -> None:
    with start_waiting(tmp_path) as (server, _):
        server.wait_for("/health/live", 200)
        workers(server)[0].kill()
        server.process.communicate(timeout=60)

        failure = json.loads(server.termination_log.read_text())
        assert server.process.returncode == 137
        assert failure["reason"] == "OutOfMemory"
        assert "was killed by SIGKILL while it loaded" in failure["message"]


@pytest.mark.parametrize("taken", [Env.PORT, Env.GRPC_PORT])
@pytest.mark.parametrize("others", ["1", "2"])
def test_a_port_of_another_server_is_not_shared(taken: Env, others: str, tmp_path: Path) -> None:
    with start_server(tmp_path / "first", SUM, MODELYARD_WORKERS=others) as first:
        first.wait_for("/health/ready", 200)
        port = first.port if taken is Env.PORT else first.grpc_port
        with start_server(tmp_path / "second", SUM, **{taken.value: str(port)}, **TWO) as second:
            second.process.communicate(timeout=60)

            failure = json.loads(second.termination_log.read_text())
            assert second.process.returncode == 1
            assert f"can't listen on 127.0.0.1:{port}" in failure["message"]
            assert taken.value in failure["message"]


def test_two_servers_with_workers_that_start_together_do_not_share_a_port(tmp_path: Path) -> None:
    with start_waiting(tmp_path) as (first, _):
        first.wait_for("/health/live", 200)
        with start_server(tmp_path / "second", SUM, MODELYARD_PORT=str(first.port), **TWO) as second:
            assert second.finish() == 1


def test_any_free_port_is_one_for_all_workers(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_PORT="0", MODELYARD_GRPC_PORT="0", **TWO) as server:
        assert server.process.stderr is not None
        lines = [server.process.stderr.readline() for _ in range(2)]
        (named,) = [line for line in lines if "serving churn" in line]
        server.port = int(named.partition("/predict")[0].rpartition(":")[2])
        (named,) = [line for line in lines if "gRPC on port" in line]
        server.grpc_port = int(named.rpartition(" ")[2])
        server.wait_for("/health/ready", 200)

        with connected(server) as clients:
            answers = [client.post("/predict", json=BODY).json()["prediction"] for client in clients]
        with triton.InferenceServerClient(f"{server.host}:{server.grpc_port}") as rpc:
            assert rpc.is_server_ready()
    assert answers == [3.0, 3.0]
