"""HTTP itself under fuzz, on a real server: heads and chunked bodies of changed bytes, and requests that lie."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.runtime.fuzz.damage import damaged, is_error
from unit.runtime.support import SUM, Server, start_server

BODY = b'{"features": [1, 2]}'
PLAIN = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = (
    b"POST /v1/models/churn:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b'A\r\n{"instance\r\nd;name=value\r\ns": [[1, 2]]}\r\n1\r\n \r\n0\r\nTrailer: x\r\n\r\n'
)
GET = b"GET /models/churn?a=%41&b HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits half a second for a body."""
    with start_server(tmp_path_factory.mktemp("server"), SUM, MODELYARD_TIMEOUT="0.5") as started:
        started.wait_for("/health/ready", 200)
        # The first request to a rare route takes a moment, and whoever sends no more is not waited for that long.
        started.wait_for("/models/churn", 200)
        yield started


def exchange(server: Server, request: bytes) -> bytes:
    """Send bytes and nothing more; return all that comes back until the server closes: a reset is an end as well."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


@pytest.mark.parametrize("request_bytes", [PLAIN, CHUNKED, GET])
def test_what_is_damaged_below_is_good(server: Server, request_bytes: bytes) -> None:
    assert exchange(server, request_bytes).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("good", [PLAIN, CHUNKED, GET, PLAIN.replace(b"Connection: close\r\n", b"") + GET])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_changed_bytes_get_an_answer_an_error_or_the_end(server: Server, good: bytes, data: st.DataObject) -> None:
    answer = exchange(server, data.draw(damaged(good)))

    statuses = [int(status) for status in STATUS.findall(answer)]
    assert all(status < 500 or status == 501 for status in statuses), answer[:500]
    if statuses and statuses[0] >= 400 and len(statuses) == 1 and answer.count(b"\r\n\r\n") == 1:
        body = answer.partition(b"\r\n\r\n")[2]
        assert body == b"" or is_error(json.loads(body)), answer[:500]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
        (b"Content-Length: 5\r\nContent-Length: 6", b"12345"),
        (b"Content-Length: -1", b""),
        (b"Content-Length: +20", BODY),
        (b"Content-Length: 0x14", BODY),
        (b"Content-Length: " + b"9" * 30, b""),
        (b"Transfer-Encoding: gzip", BODY),
        (b"Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFFF\r\n"),
        (b"Transfer-Encoding: chunked", b"-1\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"2\r\n123\r\n0\r\n\r\n"),
        (b"X: " + b"a\0b", b""),
        (b"X : y", b""),
        (b" folded: y", b""),
    ],
)
def test_lengths_that_lie_are_the_clients_error(server: Server, head: bytes, body: bytes) -> None:
    """Two readers that see another length each is how requests are smuggled."""
    answer = exchange(server, b"POST /predict HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n%b" % (head, body))

    (status,) = STATUS.findall(answer)
    assert int(status) in (400, 408, 413, 415, 422)
    assert is_error(json.loads(answer.partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize(
    "line", [b"CONNECT x:80", b"OPTIONS *", b"GET http://x/health", b"TRACE /", b"GET //", b"GET /?" + b"%" * 99]
)
def test_odd_targets_get_an_answer(server: Server, line: bytes) -> None:
    answer = exchange(server, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert int(STATUS.findall(answer)[0]) < 500, answer[:300]


def test_a_body_in_chunks_of_a_byte_is_read(server: Server) -> None:
    rows = json.dumps({"instances": [[1, 2]] * 2000}).encode()
    head = b"POST /predict/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in rows)

    answer = exchange(server, head + chunks + b"0\r\n\r\n")

    assert json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"] == [3.0] * 2000


def test_clients_that_go_in_the_middle_leave_nothing(server: Server) -> None:
    """No memory, no connection and no request that is counted as being answered."""
    process = psutil.Process(server.process.pid)

    def come_and_go(times: int) -> int:
        for index in range(times):
            with socket.create_connection((server.host, server.port), timeout=60) as connection:
                connection.sendall((PLAIN, CHUNKED, PLAIN)[index % 3][: 20 + index % 100])
        return int(process.memory_info().rss)

    before = come_and_go(500)
    after = come_and_go(2000)

    assert after - before < 2000 * 1024, "more than 1 KiB a connection stays"
    while "modelyard_in_flight_requests 0.0" not in httpx.get(f"{server.url}/metrics").text:
        pass  # the test's own timeout bounds it
    assert httpx.post(f"{server.url}/predict", content=BODY).json()["prediction"] == 3.0
