"""The end of a server: nothing that a client sent is lost."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from unit.runtime.load import REQUEST, WORKERS, end_under_load
from unit.runtime.support import SUM, Server, start_server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that clients move to."""
    with start_server(tmp_path_factory.mktemp("new"), SUM, MODELYARD_MODEL_VERSION="new") as started:
        started.wait_for("/health/ready", 200)
        yield started


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("drain_delay", ["0", "0.5"])
def test_clients_move_to_another_server_without_a_failed_request(
    drain_delay: str, workers: int, other: Server, tmp_path: Path
) -> None:
    tally = end_under_load(tmp_path, other, workers=workers, MODELYARD_DRAIN_DELAY=drain_delay)

    assert tally.failures == []


def test_ready_fails_at_once_while_requests_are_still_answered(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="1000") as server:
        server.wait_for("/health/ready", 200)

        server.process.terminate()
        server.wait_for("/health/ready", 503)
        statuses = [server.status(path) for path in ("/health", "/health/serving", "/health/live")]
        answer = httpx.post(f"{server.url}/predict", json={"features": [1, 2]})
        server.process.terminate()  # the second signal skips the rest of the delay

        assert statuses == [503, 200, 200]
        assert (answer.json()["prediction"], answer.headers["connection"]) == (3.0, "close")
        assert server.finish() == 0


@pytest.mark.parametrize("hurry", [None, signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished(hurry: signal.Signals | None, tmp_path: Path) -> None:
    delay = "0.1" if hurry is None else "1000"
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY=delay) as server:
        server.wait_for("/health/ready", 200)

        with socket.create_connection((server.host, server.port), timeout=30) as connection:
            connection.sendall(REQUEST[:-5])
            server.process.terminate()
            if hurry is not None:
                server.wait_for("/health/ready", 503)
                server.process.send_signal(hurry)
            _wait_until_refused(server)
            connection.sendall(REQUEST[-5:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert server.finish() == 0


def test_idle_connections_do_not_hold_the_end_up(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM) as server, httpx.Client() as client:
        server.wait_for("/health/ready", 200)
        client.post(f"{server.url}/predict", json={"features": [1, 2]})

        server.process.terminate()

        assert server.finish() == 0


def test_ctrl_c_does_not_wait_for_the_drain_delay(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="1000") as server:
        server.wait_for("/health/ready", 200)

        server.process.send_signal(signal.SIGINT)

        assert server.finish() == 0


def test_a_third_signal_gives_up_on_what_runs(tmp_path: Path) -> None:
    with start_server(tmp_path, SUM, MODELYARD_DRAIN_DELAY="1000", MODELYARD_TIMEOUT="1000") as server:
        server.wait_for("/health/ready", 200)

        with socket.create_connection((server.host, server.port), timeout=30) as connection:
            connection.sendall(REQUEST[:-5])
            server.process.terminate()
            server.wait_for("/health/ready", 503)
            server.process.terminate()
            _wait_until_refused(server)
            server.process.terminate()

            assert server.finish() == 0


def _wait_until_refused(server: Server) -> None:
    """Wait until the listener is closed."""
    while True:
        try:
            with socket.create_connection((server.host, server.port), timeout=0.2):
                pass
        except ConnectionRefusedError:
            return
        except TimeoutError:
            continue
