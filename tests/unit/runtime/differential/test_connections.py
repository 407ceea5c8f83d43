"""Where a message begins and ends, and what becomes of the connection: alike with and without shortcuts.

Source of what is right: RFC 9112.
"""

from __future__ import annotations

import pytest
from unit.runtime.differential.ways import MAX_BODY_BYTES, REPEATS, Ways
from unit.runtime.differential.wire import exchange, post

BODY = '{"model_name":"ident","features":[1,2,3,4]}'
GOOD = post("/predict", BODY)
OTHER = post("/predict", '{"model_name":"ident","features":[5,6,7,8]}')
LONG = post("/predict", f'{{"model_name":"ident","features":[1,2,3,4]{" " * 60_000}}}')
SLOW = post("/predict", '{"model_name":"slow","features":[1,2,3,0.05]}')
TENSOR = '{"inputs":[{"name":"features","shape":[1,4],"datatype":"FP64","data":[1,2,3,4]}]}'
INFER = post("/v2/models/ident/infer", TENSOR)
WRONG = post("/predict", '{"model_name":"ident"}')
INVALID = b"GET / HTTP/1.1\r\nHost: x\r\nX\0: y\r\n\r\n"
GET = b"GET /v2/models/ident HTTP/1.1\r\nHost: x\r\n\r\n"
TOO_LARGE = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
CLOSE = post("/predict", BODY, "Connection: close")


def chunked(body: str, *headers: str, size: int = 9, extension: str = "", trailers: str = "") -> bytes:
    head = "\r\n".join(("POST /predict HTTP/1.1", "Host: x", *headers, "Transfer-Encoding: chunked", "", ""))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = "".join(f"{len(piece):x}{extension}\r\n{piece}\r\n" for piece in pieces)
    return (head + chunks + f"0\r\n{trailers}\r\n").encode()


def with_headers(*headers: str) -> bytes:
    """A good request that has its length among `headers`."""
    return "\r\n".join(("POST /predict HTTP/1.1", "Host: x", *headers, "", BODY)).encode("latin-1")


LENGTH = f"Content-Length: {len(BODY)}"


@pytest.mark.parametrize(
    ("request_bytes", "statuses", "end"),
    [
        pytest.param(GOOD, (200,), "kept", id="plain"),
        pytest.param(CLOSE, (200,), "closed", id="close"),
        pytest.param(post("/predict", BODY, "CONNECTION: Close"), (200,), "closed", id="close in other case"),
        pytest.param(post("/predict", BODY, "Connection: x, close"), (200,), "closed", id="close in a list"),
        pytest.param(post("/predict", BODY, version="1.0"), (200,), "closed", id="HTTP/1.0"),
        pytest.param(post("/predict", BODY, "X-Request-Id: mine"), (200,), "kept", id="own id"),
        pytest.param(with_headers(LENGTH.upper()), (200,), "kept", id="header names in capitals"),
        pytest.param(with_headers(LENGTH.lower()), (200,), "kept", id="header names in small letters"),
        pytest.param(with_headers(f"Content-Length:{len(BODY)}"), (200,), "kept", id="no space before the length"),
        pytest.param(with_headers(f"Content-Length: \t {len(BODY)} \t"), (200,), "kept", id="space around the length"),
        pytest.param(with_headers(f"Content-Length: 00{len(BODY)}"), (200,), "kept", id="zeros before the length"),
        pytest.param(with_headers(LENGTH, LENGTH), (400,), "closed", id="the length twice"),
        pytest.param(with_headers(LENGTH, "Content-Length: 1"), (400,), "closed", id="two lengths"),
        pytest.param(
            with_headers(f"Content-Length: {len(BODY)}, {len(BODY)}"), (400,), "closed", id="a list of lengths"
        ),
        pytest.param(with_headers(f"Content-Length: +{len(BODY)}"), (400,), "closed", id="a length with a sign"),
        pytest.param(with_headers("Content-Length: 0x2b"), (400,), "closed", id="a length in hexadecimal"),
        pytest.param(with_headers("Content-Length: "), (400,), "closed", id="an empty length"),
        pytest.param(with_headers("Content-Length: " + "9" * 30), (400,), "closed", id="a length of 30 digits"),
        pytest.param(with_headers("Content-Length : 43"), (400,), "closed", id="space before the colon"),
        pytest.param(with_headers(LENGTH, "X: a", " b"), (400,), "closed", id="obs-fold"),
        pytest.param(with_headers("Content-Length:", f" {len(BODY)}"), (400,), "closed", id="obs-fold of the length"),
        pytest.param(with_headers(LENGTH, "X: a\0b"), (400,), "closed", id="NUL in a value"),
        pytest.param(with_headers(LENGTH, "X: a\rb"), (400,), "closed", id="CR in a value"),
        pytest.param(with_headers(LENGTH, "X: \xe4"), (200,), "kept", id="latin-1 in a value"),
        pytest.param(with_headers(LENGTH, ": x"), (400,), "closed", id="a header without a name"),
        pytest.param(with_headers(LENGTH, "Transfer-Encoding: chunked"), (400,), "closed", id="length and chunked"),
        pytest.param(with_headers("Transfer-Encoding: gzip"), (400,), "closed", id="another transfer coding"),
        pytest.param(GOOD.replace(b"\r\n", b"\n"), (400,), "closed", id="LF alone"),
        pytest.param(b"\r\n" + GOOD, (200,), "kept", id="an empty line before"),
        pytest.param(GOOD.replace(b"Host: x\r\n", b""), (200,), "kept", id="no Host"),
        pytest.param(with_headers("Host: y", LENGTH), (200,), "kept", id="two Hosts"),
        pytest.param(GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), (200,), "closed", id="HTTP/2.0"),
        pytest.param(GOOD.replace(b"HTTP/1.1", b"HTTP/1.9"), (400,), "closed", id="HTTP/1.9"),
        pytest.param(GOOD.replace(b"POST", b"post"), (400,), "closed", id="a method in small letters"),
        pytest.param(GOOD.replace(b" /predict", b"  /predict"), (200,), "kept", id="two spaces in the request line"),
        pytest.param(INVALID, (400,), "closed", id="no HTTP"),
        pytest.param(chunked(BODY), (200,), "kept", id="chunked"),
        pytest.param(chunked(BODY, size=1), (200,), "kept", id="chunks of a byte"),
        pytest.param(chunked(BODY, extension=";a=b"), (200,), "kept", id="chunk extensions"),
        pytest.param(chunked(BODY, trailers="X: y\r\n"), (200,), "kept", id="a trailer"),
        pytest.param(chunked(BODY, trailers="X-Request-Id: later\r\n"), (200,), "kept", id="an id in a trailer"),
        pytest.param(chunked(BODY, trailers="Content-Encoding: br\r\n"), (200,), "kept", id="a coding in a trailer"),
        pytest.param(
            chunked(BODY, trailers="X-Request-Timeout-Ms: x\r\n"), (200,), "kept", id="a timeout in a trailer"
        ),
        pytest.param(chunked(BODY, "Connection: close"), (200,), "closed", id="chunked and close"),
        pytest.param(chunked(BODY).replace(b"9\r\n", b"xyz\r\n", 1), (400,), "closed", id="a chunk of no size"),
        pytest.param(chunked(BODY).replace(b"9\r\n", b"8\r\n", 1), (400,), "closed", id="a chunk of another size"),
        pytest.param(with_headers(LENGTH, "Expect: 100-continue"), (100, 200), "kept", id="Expect"),
        pytest.param(TOO_LARGE, (413,), "closed", id="too large"),
        pytest.param(post("/predict", BODY, "X: " + "y" * 70_000), (431,), "closed", id="a large head"),
        pytest.param(post("/predict", BODY, "X: " + "y" * 60_000), (200,), "kept", id="a head of nearly the limit"),
        pytest.param(post("/predict", BODY, "Upgrade: h2c", "Connection: Upgrade"), (200,), "kept", id="h2c"),
        pytest.param(
            post("/predict", BODY, "Upgrade: websocket", "Connection: Upgrade"), (200,), "kept", id="websocket"
        ),
        pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", (400,), "closed", id="CONNECT"),
        pytest.param(GET, (200,), "kept", id="GET"),
        pytest.param(b"GET /predict HTTP/1.1\r\nHost: x\r\n\r\n", (405,), "kept", id="GET of a POST route"),
        pytest.param(GOOD.replace(b"POST", b"PUT"), (405,), "kept", id="PUT"),
        pytest.param(INFER.replace(b"POST", b"DELETE"), (405,), "kept", id="DELETE"),
        pytest.param(INFER.replace(b"POST", b"OPTIONS"), (405,), "kept", id="OPTIONS"),
        pytest.param(WRONG, (400,), "kept", id="a wrong body"),
        pytest.param(post("/predict", b""), (400,), "kept", id="an empty body"),
        pytest.param(b"POST /predict HTTP/1.1\r\nHost: x\r\n\r\n", (400,), "kept", id="no body"),
    ],
)
def test_one_request(ways: Ways, request_bytes: bytes, statuses: tuple[int, ...], end: str) -> None:
    seen = ways.exchange(request_bytes, repeats=1 if request_bytes is TOO_LARGE else REPEATS)

    assert (seen.statuses, seen.end) == (statuses, end)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/v1/models/ident:predict", "/v2/models/ident/infer"])
def test_head_of_a_post_route_has_no_body(ways: Ways, path: str) -> None:
    seen = ways.exchange(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), head=True)

    assert (seen.statuses, seen.end) == ((405,), "kept")


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        pytest.param(*case, id=case[0])
        for case in (
            ("/predict?x=1", BODY, 200),
            ("/predict#x", BODY, 200),
            ("http://other/predict", BODY, 200),
            ("/%70redict", BODY, 200),
            ("/predict/", BODY, 404),
            ("//predict", BODY, 404),
            ("/PREDICT", BODY, 404),
            ("/v2/models/ident/infer?x", TENSOR, 200),
            ("/v2/models/ir-is/infer", TENSOR, 200),
            ("/v2/models/ir%2Dis/infer", TENSOR, 200),
            ("/v2/models/ir%2dis/infer", TENSOR, 200),
            ("/v2/models/ir%2Dis/infer?x", TENSOR, 200),
            ("/v2/models/%69%72-is/infer", TENSOR, 200),
            ("/v2/models/ident%2Finfer", TENSOR, 200),
            ("/v2/models/a%2Fb/infer", TENSOR, 404),
            ("/v2/models/%FF/infer", TENSOR, 404),
            ("/v2/models/ident%00/infer", TENSOR, 404),
            ("/v2/models/ident%/infer", TENSOR, 404),
            ("/v2/models/ident%zz/infer", TENSOR, 404),
            ("/v2/models/ident+/infer", TENSOR, 404),
            ("/v2/models//infer", TENSOR, 404),
            ("/v2/models/ident/versions/none/infer", TENSOR, 404),
            ("/v1/models/ir%2Dis:predict", '{"instances":[[1,2,3,4]]}', 200),
            ("/v1/models/ir-is%3Apredict", '{"instances":[[1,2,3,4]]}', 200),
            ("/v1/models/ir-is:predict?x=y", '{"instances":[[1,2,3,4]]}', 200),
        )
    ],
)
def test_a_path_is_the_same_however_the_body_comes(ways: Ways, target: str, body: str, status: int) -> None:
    whole = post(target, body)
    head, _, content = whole.partition(b"\r\n\r\n")
    in_chunks = chunked(body).replace(b"/predict", target.encode(), 1)

    seen = {ways.exchange(*pieces) for pieces in ((whole,), (head + b"\r\n\r\n", content), (in_chunks,))}

    assert {(each.statuses, each.end) for each in seen} == {((status,), "kept")}
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("requests", "statuses", "end"),
    [
        pytest.param([GOOD, OTHER], (200, 200), "kept", id="good, good"),
        pytest.param([GOOD] * 40, (200,) * 40, "kept", id="forty"),
        pytest.param([GOOD, INFER, GET, OTHER], (200,) * 4, "kept", id="of several routes"),
        pytest.param([GOOD, WRONG, OTHER], (200, 400, 200), "kept", id="good, wrong, good"),
        pytest.param([GOOD, INVALID, OTHER], (200, 400), "closed", id="good, invalid, good"),
        pytest.param([GOOD, TOO_LARGE], (200, 413), "closed", id="good, too large"),
        pytest.param([CLOSE, OTHER], (200,), "closed", id="close, good"),
        pytest.param([GOOD, CLOSE, OTHER], (200, 200), "closed", id="good, close, good"),
        pytest.param([SLOW, GOOD], (200, 200), "kept", id="slow, good"),
        pytest.param([SLOW, GOOD, SLOW, OTHER], (200,) * 4, "kept", id="slow, good, slow, good"),
        pytest.param([SLOW, LONG, OTHER], (200,) * 3, "kept", id="slow, long, good"),
        pytest.param([SLOW, GOOD, LONG, OTHER], (200,) * 4, "kept", id="slow, good, long, good"),
        pytest.param([SLOW, INVALID], (200, 400), "closed", id="slow, invalid"),
        pytest.param([SLOW, GOOD, INVALID], (200, 200, 400), "closed", id="slow, good, invalid"),
        pytest.param([SLOW, WRONG, GET], (200, 400, 200), "kept", id="slow, wrong, GET"),
        pytest.param([SLOW, TOO_LARGE], (200, 413), "closed", id="slow, too large"),
        pytest.param([SLOW, CLOSE, GOOD], (200, 200), "closed", id="slow, close, good"),
        pytest.param([GET, INVALID], (200, 400), "closed", id="GET, invalid"),
        pytest.param([chunked(BODY, trailers="X: y\r\n"), GOOD], (200, 200), "kept", id="trailers, good"),
        pytest.param(
            [GOOD, post("/predict", BODY, "X: " + "y" * 70_000)], (200, 431), "closed", id="good, a large head"
        ),
        pytest.param(
            [SLOW, post("/predict", BODY, "X: " + "y" * 70_000)], (200, 431), "closed", id="slow, a large head"
        ),
    ],
)
def test_pipelined_requests_are_answered_in_their_order(
    ways: Ways, requests: list[bytes], statuses: tuple[int, ...], end: str
) -> None:
    repeats = 1 if TOO_LARGE in requests else REPEATS  # the server waits a moment for what it does not read
    at_once = ways.exchange(b"".join(requests), repeats=repeats)
    one_by_one = ways.exchange(*requests, repeats=repeats)

    assert (at_once.statuses, at_once.end) == (statuses, end)
    assert one_by_one == at_once


@pytest.mark.parametrize("length", [66_000, 90_000, 200_000])
@pytest.mark.parametrize("model", ["ident", "slow"])
@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_large_body_is_not_counted_for_the_head_behind_it(ways: Ways, length: int, model: str, cut: int) -> None:
    large = post("/predict", f'{{"model_name":"{model}","features":[1,2,3,0.01]{" " * length}}}')

    seen = ways.exchange(large + OTHER[:cut], OTHER[cut:])

    assert (seen.statuses, seen.end) == ((200, 200), "kept")


@pytest.mark.parametrize(
    "tail",
    [b'"}', b'POST /v2/models/none/infer HTTP/1.1\r\nX: "}'],
    ids=["the end of a body", "what looks like a head"],
)
def test_a_request_that_began_within_a_read_is_not_taken_for_that_read(ways: Ways, tail: bytes) -> None:
    """The same bytes mean the same, whatever they were a part of before."""
    body = b'{"model_name":"ident","features":[1,2,3,4],"x":"' + tail
    before, after = (piece for piece in (post("/predict", body)[: -len(tail)], tail + OTHER))
    alone = ways.exchange(after)

    behind = ways.exchange(before, after, after)

    assert behind.statuses[2:] == alone.statuses
    assert (behind.responses[2:], behind.end) == (alone.responses, alone.end)


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(GOOD, (200,), id="good"),
        pytest.param(SLOW, (200,), id="slow"),
        pytest.param(GET, (200,), id="GET"),
        pytest.param(INFER, (200,), id="infer"),
        pytest.param(GOOD + SLOW + OTHER, (200, 200, 200), id="pipelined"),
        pytest.param(SLOW + INVALID, (200, 400), id="slow, invalid"),
        pytest.param(post("/predict", BODY, version="1.0"), (200,), id="HTTP/1.0"),
        pytest.param(chunked(BODY), (200,), id="chunked"),
        pytest.param(b"", (), id="nothing"),
        pytest.param(GOOD + OTHER[:30], (200, 400), id="half a head"),
        pytest.param(GOOD + OTHER[:-1], (200, 400), id="half a body"),
        pytest.param(chunked(BODY)[:-3], (400,), id="half of a chunked body"),
    ],
)
def test_a_client_that_closes_its_side_gets_its_answers(
    ways: Ways, request_bytes: bytes, statuses: tuple[int, ...]
) -> None:
    seen = ways.exchange(request_bytes, half_close=True)

    assert (seen.statuses, seen.end) == (statuses, "closed")


@pytest.mark.parametrize(
    "request_bytes",
    [
        GOOD,
        INFER,
        chunked(BODY, trailers="X: y\r\n"),
        post("/predict", BODY, "Expect: 100-continue"),
        GOOD + GET + OTHER,
    ],
    ids=["predict", "infer", "chunked", "Expect", "pipelined"],
)
def test_requests_may_be_split_anywhere(ways: Ways, request_bytes: bytes) -> None:
    (whole,) = {ways.exchange(request_bytes)}

    for server in ways:
        for place in range(1, len(request_bytes)):
            pieces = (request_bytes[:place], request_bytes[place:])
            split = exchange(server.port, pieces)
            assert split == [whole], place


def test_requests_may_come_a_byte_at_a_time(ways: Ways) -> None:
    for request_bytes in (GOOD, INFER, chunked(BODY)):
        whole = ways.exchange(request_bytes)
        pieces = [request_bytes[place : place + 1] for place in range(len(request_bytes))]

        assert [exchange(server.port, pieces) for server in ways] == [[whole], [whole]]
