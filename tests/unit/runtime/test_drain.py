"""The end of a server: nothing that a client sent is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from unit.runtime.support import SUM, Server, start_server, until

BODY = json.dumps({"features": [1, 2]}).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@dataclass
class Tally:
    """What the clients saw."""

    answers: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stop: bool = False


async def keep_asking(ports: list[int], tally: Tally) -> None:
    """Ask on one connection for as long as it lasts, then on a new one: to the first server that accepts it."""
    while not tally.stop:
        for port in ports:
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
        try:
            await _ask_until_closed(reader, writer, port, tally)
        except (OSError, asyncio.IncompleteReadError) as exc:
            tally.failures.append(f"{port}: {exc!r}")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _ask_until_closed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, tally: Tally
) -> None:
    while not tally.stop:
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200 ") or json.loads(body)["prediction"] != 3.0:
            tally.failures.append(f"{port}: {head!r} {body!r}")
        tally.answers[port] = tally.answers.get(port, 0) + 1
        if b"connection: close" in head:
            return


@pytest.mark.parametrize("drain_delay", ["0", "0.5"])
def test_clients_move_to_another_server_without_a_failed_request(drain_delay: str, tmp_path: Path) -> None:
    with (
        start_server(tmp_path / "old", SUM, MODELYARD_DRAIN_DELAY=drain_delay) as old,
        start_server(tmp_path / "new", SUM) as new,
    ):
        old.wait_for("/health/ready", 200)
        new.wait_for("/health/ready", 200)
        tally = Tally()

        async def scenario() -> int:
            clients = [asyncio.create_task(keep_asking([old.port, new.port], tally)) for _ in range(32)]
            await until(lambda: tally.answers.get(old.port, 0) >= 500)
            old.process.terminate()
            code = await asyncio.to_thread(old.finish)
            enough = tally.answers.get(new.port, 0) + 500
            await until(lambda: tally.answers.get(new.port, 0) >= enough)
            tally.stop = True
            await asyncio.gather(*clients)
            return code

        code = asyncio.run(scenario())

        assert tally.failures == []
        assert code == 0


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
