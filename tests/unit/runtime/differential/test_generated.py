"""Requests that nobody wrote down: drawn, joined, split, damaged, and sent with and without shortcuts."""

from __future__ import annotations

import json
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.runtime.differential.test_connections import BODY, chunked
from unit.runtime.differential.ways import Ways
from unit.runtime.differential.wire import post
from unit.runtime.fuzz.damage import damaged

NUMBERS = st.one_of(
    st.sampled_from(["0", "-0.0", "1e308", "1e-400", "1e400", "NaN", "9007199254740993", "true", "null", '"1"', "[1]"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
)
ROW = st.lists(NUMBERS, min_size=3, max_size=5) | st.lists(NUMBERS, min_size=4, max_size=4)
SPACE = st.sampled_from(["", " ", "\n", "\t ", "\r\n"])
IDS = st.none() | st.text(max_size=6)
HEADERS = st.lists(
    st.sampled_from(
        [
            "Accept: */*",
            "accept-encoding: gzip",
            "X-Request-Id: of-the-client",
            "TraceParent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "Content-Type: application/json; charset=utf-8",
            "Cookie: a=b; c=d",
            "Content-Encoding: identity",
            "X-Request-Timeout-Ms: 20000",
            "Expect: 100-continue",
            "Inference-Header-Content-Length: 9",
        ]
    ),
    max_size=4,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes, list[str]]:
    """A path, a body for it and the headers that it needs; good or wrong."""
    comma = "," + draw(SPACE)
    path = draw(st.sampled_from(["/predict", "/predict/batch", "/v1/models/ident:predict", "/v2/models/ident/infer"]))
    if path == "/predict":
        return path, f'{{"model_name":"ident"{comma}"features":[{comma.join(draw(ROW))}]}}'.encode(), []
    rows = draw(st.lists(ROW, min_size=1, max_size=30))
    data = f"[{comma.join('[' + comma.join(row) + ']' for row in rows)}]"
    if path != "/v2/models/ident/infer":
        name = '"model_name":"ident",' if path == "/predict/batch" else ""
        return path, f'{{{name}"instances":{data}}}'.encode(), []
    identity = draw(IDS)
    about = "" if identity is None else f',"id":{json.dumps(identity, ensure_ascii=draw(st.booleans()))}'
    tensor = f'"name":"features","shape":[{len(rows)},4],"datatype":"{draw(st.sampled_from(["FP64", "FP32", "BF16"]))}"'
    if draw(st.booleans()):
        text = f'{{"inputs":[{{{tensor},"data":{data}}}]{about}}}'
        return path, text.encode("utf-8", "surrogatepass"), []
    raw = draw(st.lists(st.floats(width=32), min_size=4, max_size=4))
    content = struct.pack("<4f", *raw)[: draw(st.sampled_from([16, 15, 8]))]
    tensor = tensor.replace(f"[{len(rows)},4]", "[1,4]")
    text = f'{{"inputs":[{{{tensor},"parameters":{{"binary_data_size":{len(content)}}}}}],'
    encoded = (text + f'"parameters":{{"binary_data_output":true}}{about}}}').encode("utf-8", "surrogatepass")
    return path, encoded + content, [f"Inference-Header-Content-Length: {len(encoded)}"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A whole request, with a length."""
    path, body, needed = draw(bodies())
    return post(path, body, *draw(HEADERS), *needed)


@settings(max_examples=100, deadline=None)
@given(sent=st.lists(requests(), min_size=1, max_size=4), data=st.data())
def test_requests_are_answered_alike(ways: Ways, sent: list[bytes], data: st.DataObject) -> None:
    """One or several on a connection, in one read or in up to four."""
    joined = b"".join(sent)
    places = sorted(data.draw(st.sets(st.integers(1, len(joined) - 1), max_size=3), label="places"))
    pieces = [joined[start:end] for start, end in zip([0, *places], [*places, len(joined)], strict=True)]

    seen = ways.exchange(*pieces, repeats=2)

    final = [status for status in seen.statuses if status != 100]
    assert len(final) == len(sent)
    assert all(status < 500 for status in final)
    assert seen.end == "kept"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_requests_are_answered_alike(ways: Ways, data: st.DataObject) -> None:
    """With what a client may send behind them, and then its end."""
    good = data.draw(
        st.sampled_from([post("/predict", BODY), chunked(BODY, trailers="X: y\r\n"), post("/predict", BODY) * 2]),
        label="good",
    )
    request_bytes = data.draw(damaged(good), label="damaged")

    seen = ways.exchange(request_bytes, half_close=True, repeats=1)

    assert all(status < 500 or status in (501, 505) for status in seen.statuses)
    assert seen.end == "closed"
