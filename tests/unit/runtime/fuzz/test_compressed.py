"""Compressed bodies: what zlib and gzip compress comes back, and nothing that is sent takes long or much memory."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.errors import BadRequest, BodyTooLarge
from modelyard_runtime.http.encoding import _inflate
from unit.runtime.fuzz.damage import damaged

LIMIT = 100_000
BODIES = (
    st.binary(max_size=300)
    | st.integers(0, LIMIT).map(bytes)
    | st.binary(min_size=1, max_size=9).map(lambda b: b * 9999)
)


def bare(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(BODIES, min_size=1, max_size=4), level=st.integers(0, 9))
def test_what_was_compressed_comes_back(parts: list[bytes], level: int) -> None:
    whole = b"".join(parts)
    sent = {
        b"gzip": b"".join(gzip.compress(part, level) for part in parts),
        b"x-gzip": gzip.compress(whole, level),
        b"deflate": zlib.compress(whole, level),
    }

    for encoding, body in [*sent.items(), (b"deflate", bare(whole))]:
        if len(whole) <= LIMIT:
            assert _inflate(body, encoding, LIMIT) == whole
        else:
            with pytest.raises(BodyTooLarge):
                _inflate(body, encoding, LIMIT)


@settings(max_examples=200, deadline=None)
@given(
    encoding=st.sampled_from([b"gzip", b"deflate"]),
    body=damaged(gzip.compress(b'{"features": [1, 2]}' * 30))
    | damaged(zlib.compress(bytes(9999)))
    | st.binary(max_size=99),
)
def test_damaged_bodies_are_refused_or_small(encoding: bytes, body: bytes) -> None:
    try:
        found = _inflate(body, encoding, LIMIT)
    except (BadRequest, BodyTooLarge):
        return
    assert len(found) <= LIMIT


@pytest.mark.timeout(20)
@pytest.mark.parametrize("member", [gzip.compress(b""), gzip.compress(b"x"), gzip.compress(bytes(5))])
def test_a_body_of_a_million_members_is_refused_soon(member: bytes) -> None:
    """zlib copies what follows a member: going through all of these would copy terabytes."""
    with pytest.raises(BadRequest, match="more than 10000 gzip members"):
        _inflate(member * 1_000_000, b"gzip", 32 * 1024 * 1024)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_takes_no_more_than_the_limit(encoding: bytes) -> None:
    zeros = bytes(200 * 1024 * 1024)
    bomb = gzip.compress(zeros, 1) if encoding == b"gzip" else zlib.compress(zeros, 1)
    del zeros

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            _inflate(bomb, encoding, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * LIMIT
