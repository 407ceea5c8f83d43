"""Bounds on what a client may do with a connection."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["ConnectionLimits"]


def _request_ids() -> Iterator[bytes]:
    """Make ids that no other process makes: a random beginning and a count."""
    beginning = os.urandom(6).hex().encode()
    return (b"%b-%x" % (beginning, number) for number in itertools.count())


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds on a client's use of its connection."""

    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers."""
    head_bytes: int = 65536
    """The request line and the headers together."""
    idle_seconds: float = 75.0
    """Without a request; longer than the usual client's and balancer's, so that they close first."""
    stall_seconds: float = 30.0
    """For which a client may leave its responses unread, once no more of them fit into the buffers between."""
    max_age: float = 0.0
    """After this many seconds, give or take a tenth, a connection closes with its next answer; 0: never."""
    ids: Iterator[bytes] = field(default_factory=_request_ids)
    """Ids for requests that bring none."""
