"""Heads that came before: what is remembered of a request, and which other requests it is taken to tell of."""

from __future__ import annotations

import pytest
from modelyard_runtime.transport.heads import KnownHead, body_after, remembered
from unit.runtime.test_direct import POST, Route

ROUTE = Route()


def read(data: bytes, length: int) -> KnownHead | None:
    return remembered(KnownHead(b"", b"", length, ROUTE, b"", b""), data)


@pytest.mark.parametrize("length", [b"3", b" 3", b"3 ", b"\t3\t"])
def test_a_head_is_remembered_around_the_length(length: bytes) -> None:
    head = b"POST /predict HTTP/1.1\r\ncontent-length:" + length + b"\r\nHost: x\r\n\r\n"

    known = read(head + b"one", 3)

    assert known is not None
    assert known.before + b"3" + known.after == head
    assert body_after(known, head.replace(b"3", b"12") + b"a longer one") == b"a longer one"


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\ntransfer-encoding: chunked",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\n 3",
        b"Content-Length: 03, 3",
        b"Content-Length: +3",
        b"Content-Length: 4",
        b"X: content-length: 3",
        b"X: y\r\n content-length: 3",
        b"Content-Length: 3\r\nX: " + b"x" * 4096,
        b"Host: x",
    ],
)
def test_a_head_that_could_mean_another_length_is_not_remembered(line: bytes) -> None:
    assert read(b"POST /predict HTTP/1.1\r\n" + line + b"\r\n\r\none", 3) is None


@pytest.mark.parametrize("data", [POST % 3 + b"on", POST % 3 + b"one2", POST % 3 + b"one" + POST % 3 + b"two"])
def test_what_is_more_or_less_than_a_request_is_not_remembered(data: bytes) -> None:
    assert read(data, 3) is None


@pytest.mark.parametrize(
    "data",
    [
        POST % 3 + b"on",
        POST % 3 + b"one2",
        POST % 3 + b"one" + POST % 3 + b"two",
        (POST % 3).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"one",
        (POST % 3).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"one",
        *(
            (POST.replace(b"%d", b"%s") % number) + b"one"
            for number in (b"", b"+3", b"3 ", b"-3", b"3.", b"0x3", b"3,3")
        ),
        (POST.replace(b"%d", b"%s") % (b"0" * 9 + b"3")) + b"one",
        POST[: POST.index(b"%d")],
        (POST % 3)[:-4],
    ],
)
def test_another_head_is_not_taken_for_it(data: bytes) -> None:
    known = read(POST % 3 + b"one", 3)

    assert known is not None
    assert data.startswith(known.before)
    assert body_after(known, data) is None


def test_what_follows_the_length_is_compared() -> None:
    head = b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nHost: x\r\n\r\n"
    known = read(head + b"one", 3)

    assert known is not None
    assert body_after(known, head + b"two") == b"two"
    assert body_after(known, head.replace(b"x", b"y") + b"two") is None
