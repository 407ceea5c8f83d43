"""Very large JSON: what is parsed in pieces is what would be parsed as a whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.errors import BadRequest, RequestError
from modelyard_runtime.protocols import json_pieces
from modelyard_runtime.protocols.json_pieces import object_in_pieces
from modelyard_runtime.protocols.json_reader import parse_object
from unit.runtime.support import Api, FakeModel

ROWS = [[index, index + 0.5] for index in range(20_000)]


def parsed(body: bytes) -> Any:
    return object_in_pieces(body) or parse_object(body)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "_PIECE", 16)


def outcome(parse: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        request = parse(body)
    except RequestError as exc:
        return type(exc), str(exc)
    if isinstance(request.get("instances"), np.ndarray):
        request["instances"] = request["instances"].tolist()
    return request


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"instances": ROWS, "model_name": "m"}).encode(),
        json.dumps({"model_name": "m", "instances": ROWS}).encode(),
        b' { "instances" : [ [1, 2] , [3, 4],\n [5, 6], [7, 8], [9, 10] ] } ',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],[9,10]], "instances": [[1,2]]}',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],[9,10]], "\\u0069nstances": [[1,2]]}',
        b'{"instances": [["a],", "b],"],["a],", "b],"],["a],", "b],"]]}',
        b'{"instances": [[[1],[2]],[[3],[4]],[[5],[6]],[[7],[8]]], "x": [[1],[2],[3],[4],[5],[6]]}',
        b'{"instances": [{"a": [1],"b": [2]},{"a": [1],"b": [2]},{"a": [1],"b": [2]}]}',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],,[9,10]]}',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],[9,10],]}',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],[9,10]',
        b'{"instances": [[1,2],[3,4],[5,6],[7,8],[9,10]]} x',
        b'{"instances": []}',
        b'{"instances": 3}',
        b"[1, 2]",
        b"",
    ],
)
def test_pieces_and_the_whole_agree(body: bytes) -> None:
    assert outcome(parsed, body) == outcome(parse_object, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('],"[{}\\ainstces', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "instances"]), inner, max_size=2),
    max_leaves=20,
)


@given(rows=st.lists(JSON, max_size=12), other=JSON, cut=st.integers(0, 400))
def test_pieces_and_the_whole_agree_on_anything(rows: Any, other: Any, cut: int) -> None:
    body = orjson.dumps({"instances": rows, "x": other})

    for text in (body, body[:cut], body[:cut] + b"]," + body[cut:]):
        assert outcome(parsed, text) == outcome(parse_object, text)


def test_a_large_body_is_answered(serve: Callable[..., Api]) -> None:
    api = serve({"m": FakeModel()})

    answer = api.predict({"instances": ROWS}, "/predict/batch").json()
    wrong = api.predict({"instances": [*ROWS, [1, "x"]]}, "/predict/batch")

    assert answer["predictions"] == [sum(row) for row in ROWS]
    assert (wrong.status_code, wrong.json()["error"]) == (422, "instances[20000][1] is a string; send a number")


class NamesItsThread:
    def __str__(self) -> str:
        return threading.current_thread().name


@pytest.mark.parametrize("path", ["/predict/batch", "/v1/models/m:predict"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_a_large_answer_is_encoded_in_a_thread(serve: Callable[..., Api], path: str, use_cache: bool) -> None:
    """Many predictions take long to be made into JSON: the event loop does that only for few of them."""
    api = serve({"m": FakeModel(lambda rows: np.full(len(rows), NamesItsThread(), dtype=object))})

    few, many = (
        api.predict({"instances": rows, "use_cache": use_cache}, path).json()["predictions"]
        for rows in (ROWS[:2], ROWS)
    )

    assert few == [threading.current_thread().name] * 2
    assert len(many) == len(ROWS)
    assert few[0] not in many


def test_large_nonsense_is_a_400() -> None:
    with pytest.raises(BadRequest):
        parsed(b'{"instances": [' + b"[1,2]," * 100_000)


@pytest.mark.parametrize("piece", [1024, 100_000])
def test_rows_of_numbers_become_an_array(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "_PIECE", piece)
    odd = [*ROWS[:15_000], [1, 2, 3], *ROWS[15_000:]]
    texts = [*ROWS[:15_000], [1, "x"], *ROWS[15_000:]]

    found = parsed(json.dumps({"instances": ROWS, "model_name": "m"}).encode())
    others = [parsed(json.dumps({"instances": rows}).encode()) for rows in (odd, texts)]

    assert isinstance(found["instances"], np.ndarray)
    assert (found["instances"].tolist(), found["model_name"]) == ([[float(a), b] for a, b in ROWS], "m")
    assert others == [{"instances": odd}, {"instances": texts}]
