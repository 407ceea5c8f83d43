"""What a body means: alike with and without shortcuts, however large it is, and whatever came before it."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from unit.runtime.differential.ways import MAX_BODY_BYTES, Ways
from unit.runtime.differential.wire import post

ROWS = {1: 3, 100: 3, 24_000: 1}
"""Rows, and how often they are sent: bodies below 512 bytes, below 256 KiB and above are read differently."""
LARGE = 24_000


def predict(rows: str, more: str = "") -> bytes:
    return post("/predict", f'{{"model_name":"ident"{more},"features":{rows}}}')


def batch(rows: str, more: str = "") -> bytes:
    return post("/predict/batch", f'{{"model_name":"ident"{more},"instances":{rows}}}')


def v1(rows: str, more: str = "") -> bytes:
    return post("/v1/models/ident:predict", f'{{"instances":{rows}{more}}}')


def infer(data: str, more: str = "", *, shape: str = "[1,4]", datatype: str = "FP64", model: str = "ident") -> bytes:
    tensor = f'{{"name":"features","shape":{shape},"datatype":"{datatype}","data":{data}}}'
    return post(f"/v2/models/{model}/infer", f'{{"inputs":[{tensor}]{more}}}')


def binary(
    raw: bytes,
    *,
    datatype: str = "FP64",
    shape: str = "[1,4]",
    size: int | None = None,
    length: str = "{}",
    more: str = "",
    model: str = "ident",
) -> bytes:
    """A request with one raw tensor; `size` and `length` (of its JSON) may lie."""
    size = len(raw) if size is None else size
    tensor = f'{{"name":"features","shape":{shape},"datatype":"{datatype}","parameters":{{"binary_data_size":{size}}}}}'
    text = f'{{"inputs":[{tensor}],"parameters":{{"binary_data_output":true}}{more}}}'.encode()
    header = "Inference-Header-Content-Length: " + length.format(len(text), short=len(text) - 1, long=len(text) + 1)
    return post(f"/v2/models/{model}/infer", text + raw, header)


def bfloat16(*values: float) -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


FOUR = struct.pack("<4d", 1, 2, 3, 4)
NAN = struct.pack("<4d", 1, float("nan"), 3, 4)
NUMBERS = [
    pytest.param("1.5", True, id="a number"),
    pytest.param("-0.0", True, id="minus zero"),
    pytest.param("9007199254740993", True, id="over 2**53"),
    pytest.param("18446744073709551615", True, id="2**64 - 1"),
    pytest.param("18446744073709551616", True, id="2**64"),
    pytest.param("1e308", True, id="1e308"),
    pytest.param("5e-324", True, id="the smallest"),
    pytest.param("1e-400", True, id="below the smallest"),
    pytest.param("true", True, id="true"),
    pytest.param("1e400", False, id="1e400"),
    pytest.param("-1e400", False, id="-1e400"),
    pytest.param("NaN", False, id="NaN"),
    pytest.param("Infinity", False, id="Infinity"),
    pytest.param("-Infinity", False, id="-Infinity"),
    pytest.param("nan", False, id="nan"),
    pytest.param("01", False, id="a zero before"),
    pytest.param("+1", False, id="a plus before"),
    pytest.param("1.", False, id="a point after"),
    pytest.param(".5", False, id="a point before"),
    pytest.param("-", False, id="a minus alone"),
    pytest.param("1e", False, id="an exponent without digits"),
    pytest.param("0x1", False, id="hexadecimal"),
    pytest.param("1_0", False, id="an underscore"),
    pytest.param("1 2", False, id="two numbers without a comma"),
    pytest.param("1,,2", False, id="two commas"),
    pytest.param("", False, id="nothing"),
    pytest.param("'1'", False, id="single quotes"),
    pytest.param('"1"', False, id="text"),
    pytest.param("null", False, id="null"),
    pytest.param("[1]", False, id="a list"),
    pytest.param("{}", False, id="an object"),
    pytest.param("/*x*/1", False, id="a comment"),
    pytest.param("1\0", False, id="NUL"),
    pytest.param("1\v", False, id="a vertical tab"),
    pytest.param("\xa01", False, id="a wide space"),
]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("number", "good"), NUMBERS)
def test_a_number_is_read_alike_on_every_way(ways: Ways, number: str, good: bool, rows: int) -> None:
    """Each request stands between good ones of the same form; large ones, which no shortcut takes, do not."""
    values = f"[{','.join([f'[{number},2,3,4]'] + ['[1.5,2,3,4]'] * (rows - 1))}]"
    plain = f"[{','.join(['[1.5,2,3,4]'] * rows)}]"
    shape = f"[{rows},4]"
    forms: list[Callable[[str], bytes]] = [batch, v1, lambda data: infer(data, shape=shape)]
    if rows == 1:
        forms.append(lambda data: predict(data[1:-1]))

    for form in forms:
        around = [ways.exchange(form(plain))] if rows < LARGE else []
        seen = ways.exchange(form(values), repeats=ROWS[rows])
        around += [ways.exchange(form(plain))] if rows < LARGE else []

        assert len(set(around)) <= 1
        assert all(each.statuses == (200,) for each in around)
        assert seen.end == "kept"
        assert (seen.statuses[0] == 200) == good, seen
        assert seen.statuses[0] in (200, 400, 422)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("change", "good"),
    [
        pytest.param(lambda text: text, True, id="as it is"),
        pytest.param(lambda text: b" \t\r\n" + text + b" \t\r\n", True, id="space around"),
        pytest.param(lambda text: text.replace(b",", b" ,\n\t"), True, id="space within"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, False, id="a BOM"),
        pytest.param(lambda text: text.decode().encode("utf-16"), False, id="UTF-16"),
        pytest.param(lambda text: text[:-1] + b",}", False, id="a comma at the end"),
        pytest.param(lambda text: text.replace(b"]]", b"],]", 1), False, id="a comma at the end of the rows"),
        pytest.param(lambda text: text.replace(b"4]", b"4,]", 1), False, id="a comma at the end of a row"),
        pytest.param(lambda text: text[:-1], False, id="cut off"),
        pytest.param(lambda text: text + b"}", False, id="a brace too many"),
        pytest.param(lambda text: text + b" x", False, id="text after"),
        pytest.param(lambda text: text + b"\0", False, id="NUL after"),
        pytest.param(lambda text: text + text, False, id="twice"),
        pytest.param(lambda text: text[:-1] + b',"x":"\xff"}', False, id="no UTF-8"),
        pytest.param(lambda text: text[:-1] + b',"x":"\\ud800"}', False, id="half a surrogate pair"),
        pytest.param(lambda text: text[:-1] + b',"x":"\n"}', False, id="a line break in text"),
        pytest.param(lambda text: text[:-1] + b',"x":"\\x"}', False, id="an escape that is none"),
        pytest.param(lambda text: text[:-1] + b",x:1}", False, id="a name without quotes"),
        pytest.param(lambda text: text[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}", True, id="500 lists deep"),
        pytest.param(lambda text: text[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}", False, id="5000 lists deep"),
        pytest.param(lambda text: text[:-1] + b',"x":{"instances":[[1]]}}', True, id="the name again within"),
        pytest.param(lambda text: text[:-1] + b',"x":"[["}', True, id="brackets in text"),
    ],
)
def test_one_parser_decides_what_json_is(ways: Ways, change: Callable[[bytes], bytes], good: bool, rows: int) -> None:
    values = [[1.5, 2, 3, 4]] * rows
    tensor = {"name": "features", "shape": [rows, 4], "datatype": "FP64", "data": values}
    bodies = {
        "/predict/batch": {"model_name": "ident", "instances": values},
        "/v1/models/ident:predict": {"instances": values},
        "/v2/models/ident/infer": {"inputs": [tensor]},
    }
    for path, body in bodies.items():
        text = json.dumps(body, separators=(",", ":")).encode()
        if rows < LARGE:
            assert ways.exchange(post(path, text)).statuses == (200,)

        seen = ways.exchange(post(path, change(text)), repeats=ROWS[rows])

        assert seen.end == "kept"
        assert seen.statuses == ((200,) if good else (400,)), (path, seen)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(predict("[1,2,3,4]", ',"model_name":"over"'), 200, id="the model twice"),
        pytest.param(predict("[9,9,9,9]", ',"features":[1,2,3,4]'), 200, id="features twice"),
        pytest.param(batch("[[9,9,9,9]]", ',"instances":[[1,2,3,4]]'), 200, id="instances twice"),
        pytest.param(batch("[[1,2,3,4]]", ',"inst\\u0061nces":[[9,9,9,9]]'), 200, id="instances twice, escaped"),
        pytest.param(infer("[1,2,3,4]", ',"inputs":[]'), 400, id="inputs twice"),
        pytest.param(infer("[1,2,3,4]", ',"id":"a","id":"b"'), 200, id="the id twice"),
        pytest.param(infer("[1,2,3,4]", ',"id":"\\u00e4\\n\\""'), 200, id="an id with escapes"),
        pytest.param(infer("[1,2,3,4]", ',"id":"\u00e4\u20ac"'), 200, id="an id beyond ASCII"),
        pytest.param(infer("[1,2,3,4]", ',"id":1'), 400, id="an id that is a number"),
        pytest.param(infer("[1,2,3,4]", ',"id":null'), 200, id="an id that is null"),
        pytest.param(infer("[1,2,3,4]", ',"id":""'), 200, id="an empty id"),
        pytest.param(infer('[1,2,3,4],"data":[5,6,7,8]'), 200, id="data twice"),
        pytest.param(infer("[1,2,3,4]", ',"parameters":{"data":[1]}'), 200, id="data in the parameters"),
        pytest.param(infer("[[1,2,3,4]]"), 200, id="data in rows"),
        pytest.param(infer("[[[1,2,3,4]]]"), 400, id="data too deep"),
        pytest.param(infer("[[1,2],[3,4]]"), 400, id="data in another form"),
        pytest.param(infer("[[1,2],[3,4]]", shape="[4]"), 400, id="rows for a shape of one dimension"),
        pytest.param(infer("[1,2,[3],4]"), 400, id="a list among numbers"),
        pytest.param(infer("[1,2,3]"), 400, id="too few"),
        pytest.param(infer("[1,2,3,4,5]"), 400, id="too many"),
        pytest.param(infer("[]", shape="[0,4]"), 400, id="no rows"),
        pytest.param(infer("[1,2,3,4]", shape="[1,4.0]"), 400, id="a shape of a float"),
        pytest.param(infer("[1,2,3,4]", shape="[true,4]"), 400, id="a shape of a boolean"),
        pytest.param(infer("[1,2,3,4]", shape="[-1,4]"), 400, id="a negative shape"),
        pytest.param(infer("[1,2,3,1e39]", datatype="FP32"), 400, id="too large for FP32"),
        pytest.param(infer("[1,2,3,3.4028235e38]", datatype="FP32"), 200, id="the largest FP32"),
        pytest.param(infer("[1,2,3,70000]", datatype="FP16"), 400, id="too large for FP16"),
        pytest.param(infer("[1,2,3,4]", datatype="BF16"), 400, id="BF16 in JSON"),
        pytest.param(infer("[1,2,3,0.5]", datatype="INT64"), 400, id="a fraction for INT64"),
        pytest.param(infer("[1,2,3,4]", datatype="INT32"), 200, id="INT32"),
        pytest.param(infer("[1,2,3,300]", datatype="UINT8"), 400, id="too large for UINT8"),
        pytest.param(infer("[true,false,true,true]", datatype="BOOL"), 200, id="BOOL"),
        pytest.param(infer("[1,2,3,4]", datatype="fp64"), 400, id="a datatype in small letters"),
        pytest.param(infer("[1,2,3,4]", datatype="BYTES"), 400, id="numbers for BYTES"),
        pytest.param(infer("[1e308,1e308,1e308,1e308]", model="over"), 400, id="an overflow in JSON"),
        pytest.param(
            post("/predict", '{"model_name":"over","features":[1e308,1e308,1e308,1e308]}'),
            422,
            id="predict: an overflow",
        ),
        pytest.param(infer("[1,2,3,4]", ',"outputs":[{"name":"prediction"}]'), 200, id="an output by name"),
        pytest.param(infer("[1,2,3,4]", ',"outputs":[{"name":"none"}]'), 400, id="an output that is none"),
        pytest.param(infer("[1,2,3,4]", ',"parameters":{"binary_data_output":true}'), 200, id="binary output"),
        pytest.param(infer("[1,2,3,4]", ',"parameters":{"binary_data_output":1}'), 400, id="binary output, a number"),
        pytest.param(infer("[1,2,3,4]", ',"parameters":{"timeout":-1}'), 400, id="a negative timeout"),
        pytest.param(infer("[1,2,3,4]", ',"parameters":[]'), 400, id="parameters in a list"),
        pytest.param(infer("[1,2,3,4]", ',"x":[1,[2]]'), 200, id="an unknown field"),
        pytest.param(post("/v2/models/ident/infer", "[]"), 400, id="infer: a list"),
        pytest.param(post("/predict", "[]"), 422, id="predict: a list"),
        pytest.param(post("/predict", "null"), 422, id="predict: null"),
        pytest.param(predict("[1,2,3]"), 422, id="predict: too few"),
        pytest.param(predict('{"x":1}'), 422, id="predict: by names that the model does not know"),
        pytest.param(batch("[]"), 422, id="batch: no rows"),
        pytest.param(batch("[[1,2,3,4],[1,2]]"), 422, id="batch: rows of two lengths"),
        pytest.param(batch("[[1,2,3,4],[[1],2,3,4]]"), 422, id="batch: a list within a row"),
        pytest.param(batch("[1,2,3,4]"), 422, id="batch: one row"),
        pytest.param(v1("[[1,2]]"), 400, id="v1: too few"),
        pytest.param(v1("[[1,2,3,4]]", ',"signature_name":"x"'), 200, id="v1: a signature"),
    ],
)
def test_a_body_means_the_same_after_its_like(ways: Ways, request_bytes: bytes, status: int) -> None:
    for like in (
        predict("[1,2,3,4]"),
        batch("[[1,2,3,4]]"),
        v1("[[1,2,3,4]]"),
        infer("[1,2,3,4]"),
        infer("[[1,2,3,4]]"),
    ):
        assert ways.exchange(like).statuses == (200,)

    seen = ways.exchange(request_bytes)

    assert (seen.statuses, seen.end) == ((status,), "kept")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(binary(FOUR), 200, id="FP64"),
        pytest.param(binary(FOUR, more=',"id":"a"'), 200, id="an id"),
        pytest.param(binary(FOUR, more=',"id":"b"'), 200, id="another id"),
        pytest.param(binary(NAN), 200, id="NaN"),
        pytest.param(binary(struct.pack("<4d", 1, float("inf"), 3, 4)), 200, id="Infinity"),
        pytest.param(binary(struct.pack("<4d", *[1e308] * 4), model="over"), 200, id="an overflow"),
        pytest.param(binary(struct.pack("<4f", 1, 2, 3, 4), datatype="FP32"), 200, id="FP32"),
        pytest.param(binary(struct.pack("<4f", 1, float("nan"), 3, 4), datatype="FP32"), 200, id="FP32 NaN"),
        pytest.param(binary(np.array([1, 2, 3, 4], "<f2").tobytes(), datatype="FP16"), 200, id="FP16"),
        pytest.param(binary(bfloat16(1, 2, 3, 4), datatype="BF16"), 200, id="BF16"),
        pytest.param(binary(struct.pack("<4f", 5, 6, 7, 8), datatype="BF16"), 400, id="BF16 of twice the size"),
        pytest.param(
            binary(struct.pack("<4f", 5, 6, 7, 8), datatype="BF16", size=8), 400, id="BF16 that says half its size"
        ),
        pytest.param(binary(struct.pack("<4q", 1, 2, 3, 4), datatype="INT64"), 200, id="INT64"),
        pytest.param(binary(b"\1\0\2\1", datatype="BOOL"), 200, id="BOOL"),
        pytest.param(binary(FOUR[:-1]), 400, id="a byte too few"),
        pytest.param(binary(FOUR + b"\0"), 400, id="a byte too many"),
        pytest.param(binary(FOUR + FOUR), 400, id="twice the numbers"),
        pytest.param(binary(FOUR, size=16), 400, id="a size that is too small"),
        pytest.param(binary(FOUR, size=64), 400, id="a size that is too large"),
        pytest.param(binary(FOUR[:16], size=32), 400, id="fewer bytes than the size"),
        pytest.param(binary(FOUR, size=-1), 400, id="a negative size"),
        pytest.param(binary(FOUR + FOUR, shape="[2,4]"), 200, id="two rows"),
        pytest.param(binary(b"", shape="[0,4]"), 400, id="no rows"),
        pytest.param(binary(FOUR, length="{short}"), 400, id="a header length that is too short"),
        pytest.param(binary(FOUR, length="{long}"), 400, id="a header length that is too long"),
        pytest.param(binary(FOUR, length="000{}"), 200, id="a header length with zeros before"),
        pytest.param(binary(FOUR, length="+{}"), 400, id="a header length with a sign"),
        pytest.param(binary(FOUR, length="-1"), 400, id="a negative header length"),
        pytest.param(binary(FOUR, length="x"), 400, id="a header length that is no number"),
        pytest.param(binary(FOUR, length=""), 400, id="an empty header length"),
        pytest.param(binary(FOUR, length="99999"), 400, id="a header length beyond the body"),
        pytest.param(binary(FOUR, length="9" * 30), 400, id="a header length of 30 digits"),
        pytest.param(binary(FOUR, length="{0}\r\nInference-Header-Content-Length: {0}"), 400, id="two header lengths"),
        pytest.param(post("/v2/models/ident/infer", FOUR, "Inference-Header-Content-Length: 0"), 200, id="raw alone"),
        pytest.param(
            post("/v2/models/ident/infer", NAN, "Inference-Header-Content-Length: 0"), 200, id="raw alone, NaN"
        ),
        pytest.param(
            post("/v2/models/ident/infer", FOUR[:-1], "Inference-Header-Content-Length: 0"),
            400,
            id="raw alone, a byte too few",
        ),
        pytest.param(
            post("/v2/models/ident/infer", b"", "Inference-Header-Content-Length: 0"), 400, id="raw alone, nothing"
        ),
    ],
)
def test_a_raw_tensor_means_the_same_after_its_like(ways: Ways, request_bytes: bytes, status: int) -> None:
    likes = (
        binary(FOUR),
        binary(struct.pack("<4f", 1, 2, 3, 4), datatype="FP32"),
        binary(bfloat16(1, 2, 3, 4), datatype="BF16"),
    )
    for like in likes:
        assert ways.exchange(like).statuses == (200,)

    seen = ways.exchange(request_bytes)

    assert (seen.statuses, seen.end) == ((status,), "kept")


PLAIN = b'{"model_name":"ident","features":[1,2,3,4]}'


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("gzip", gzip.compress(PLAIN), 200),
        ("GZip", gzip.compress(PLAIN), 200),
        ("x-gzip", gzip.compress(PLAIN), 200),
        ("deflate", zlib.compress(PLAIN), 200),
        ("identity", PLAIN, 200),
        ("", PLAIN, 200),
        ("gzip", gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:]), 200),
        ("gzip", gzip.compress(PLAIN)[:-1], 400),
        ("gzip", gzip.compress(PLAIN) + b"x", 400),
        ("gzip", PLAIN, 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(bytes(MAX_BODY_BYTES + 1)), 413),
        ("br", PLAIN, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(PLAIN)), 415),
    ],
)
def test_compressed_bodies(ways: Ways, coding: str, content: bytes, status: int) -> None:
    seen = ways.exchange(post("/predict", content, f"Content-Encoding: {coding}"))

    assert seen.statuses == (status,)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("br, gzip", "gzip"), ("gzip;q=0", ""), ("br", "")],
)
def test_compressed_answers(ways: Ways, accepted: str, coding: str) -> None:
    request_bytes = infer(json.dumps([1.5] * 1200), shape="[300,4]")

    (response,) = ways.exchange(
        request_bytes.replace(b"Host: x", b"Host: x\r\nAccept-Encoding: " + accepted.encode())
    ).responses

    assert response.status == 200
    assert dict(response.headers).get("content-encoding", "") == coding


@pytest.mark.parametrize(("milliseconds", "status"), [("1000", 200), ("0", 400), ("x", 400), ("-5", 400), ("1.5", 400)])
def test_the_clients_deadline(ways: Ways, milliseconds: str, status: int) -> None:
    for like in (predict("[1,2,3,4]"), infer("[1,2,3,4]"), binary(FOUR)):
        head, _, content = like.partition(b"\r\n\r\n")
        seen = ways.exchange(head + f"\r\nX-Request-Timeout-Ms: {milliseconds}\r\n\r\n".encode() + content)

        assert (seen.statuses, seen.end) == ((status,), "kept")


@pytest.mark.parametrize(
    "form",
    [
        lambda value: post("/predict", f'{{"model_name":"ident","features":[{value},2,3,4],"use_cache":true}}'),
        lambda value: v1(f"[[{value},2,3,4]]", ',"use_cache":true'),
        lambda value: infer(f"[{value},2,3,4]", ',"parameters":{"use_cache":true}'),
        lambda value: binary(struct.pack("<4d", value, 2, 3, 4), more=',"parameters":{"use_cache":true}'),
    ],
    ids=["predict", "v1", "infer", "binary"],
)
def test_cached_answers_come_alike(ways: Ways, form: Callable[[int], bytes]) -> None:
    for value in range(3):
        seen = ways.exchange(form(value), remembers=True)

        assert (seen.statuses, seen.end) == ((200,), "kept")
        assert b'"cached":true' in seen.responses[0].body
