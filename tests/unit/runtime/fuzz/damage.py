"""What fuzz tests send: bodies that were good, and bodies that are known to trouble parsers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

MARKS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"\\",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"1e999",
    b"-",
    b"NaN",
]


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Give `good` after one to four changes: bytes replaced, put in, taken out, repeated, or the end cut off."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        change = draw(st.sampled_from(["replace", "insert", "remove", "repeat", "cut"]))
        new = draw(st.binary(max_size=4) | st.sampled_from(MARKS))
        data = {
            "replace": data[:start] + new + data[start + len(new) :],
            "insert": data[:start] + new + data[start:],
            "remove": data[:start] + data[end:],
            "repeat": data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:],
            "cut": data[:start],
        }[change]
    return data


def troublesome(field: str, size: int = 50_000) -> list[bytes]:
    """Return JSON bodies with `field` that are too deep, too long, not UTF-8, ambiguous or of no type that is meant.

    The long ones have `size` parts.
    """
    name = field.encode()
    values: list[bytes] = [
        b"[" * size,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"9" * size,
        b"[1e400]",
        b"[-1e400, 1]",
        b"[1, 2e308]",
        b"[0." + b"0" * size + b"1]",
        b"[99999999999999999999999999]",
        b"[1, NaN]",
        b"[Infinity]",
        b'["\\ud800"]',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"[true, false]",
        b"[[[[1]]]]",
        b"[[1, 2], [3]]",
        b"[" + b"1," * size + b"1]",
        b"[" + b"[]," * size + b"[]]",
        b"[" + b"{}," * size + b"{}]",
        b'{"\\u0000": 1, "": 2}',
        b"null",
    ]
    bodies = [b'{"%b": %b}' % (name, value) for value in values]
    bodies += [
        b'{"%b": [1], "%b": null}' % (name, name),
        b'\xef\xbb\xbf{"%b": [1, 2]}' % name,
        '{"%s": [1, 2]}'.encode("utf-16").replace(b"%s", name),
        b'{"%b": [1, 2]} {}' % name,
        b'{"%b": [1, 2]}\0' % name,
        b"{" + b",".join(b'"k%d": 1' % index for index in range(size // 3)) + b"}",
        b"",
        b"\0" * 1000,
    ]
    return bodies


def is_error(body: Any) -> bool:
    """Whether this is the form of an error of every HTTP protocol here."""
    return isinstance(body, dict) and list(body) == ["error"] and isinstance(body["error"], str) and body["error"] != ""
