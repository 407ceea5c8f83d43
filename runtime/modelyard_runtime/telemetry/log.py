"""The log: lines for people or JSON objects for machines, each with the request that it is about."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson

__all__ = ["CURRENT_REQUEST", "RepeatFilter", "RequestContext", "set_up_logging"]


class Traced(Protocol):
    """What is in a trace."""

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""


class RequestContext(NamedTuple):
    """The ids of the request that is being answered, as they came; `trace` where it is traced."""

    request_id: bytes
    traceparent: bytes = b""
    trace: Traced | None = None


CURRENT_REQUEST: ContextVar[RequestContext | None] = ContextVar("modelyard_request", default=None)
"""The request that this task, or this thread's call, is about."""


def set_up_logging(form: str, level: str) -> None:
    """Write the log to stderr, `form` `plain` or `json`, from `level` (`debug`, `info`, `warning`) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Plain())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What a client sends is no event of ours; what we do wrong is logged where it is caught.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


_MAX_KINDS = 1000
"""Kinds of records that are told apart at a time."""


class RepeatFilter(logging.Filter):
    """Leaves out what requests repeat: a client must not fill the log by sending the same fault again and again.

    Of warnings and errors that are about requests, alike but for their arguments, a few a minute pass; the next one to
    pass says how many did not.
    """

    def __init__(self, *, at_most: int = 5, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`at_most` records alike pass in `seconds` by `clock`."""
        super().__init__()
        self._at_most = at_most
        self._seconds = seconds
        self._clock = clock
        self._passed: dict[tuple[Any, ...], tuple[float, int]] = {}
        """When a window began, and the records since then."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if record.levelno < logging.WARNING or CURRENT_REQUEST.get() is None:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, str(record.msg), kind)
        now = self._clock()
        began, count = self._passed.get(key, (now, 0))
        left_out = 0
        if now - began >= self._seconds:
            left_out = max(0, count - self._at_most)
            began, count = now, 0
        if len(self._passed) >= _MAX_KINDS:
            self._passed.clear()  # a model's own messages may all differ
        self._passed[key] = (began, count + 1)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this were left out)"
        return count < self._at_most


def _ids() -> dict[str, str]:
    request = CURRENT_REQUEST.get()
    if request is None:
        return {}
    ids = {
        "request_id": request.request_id.decode("ascii"),
        "traceparent": request.traceparent.decode("ascii"),
        "trace_id": request.trace.trace_id if request.trace is not None else "",
    }
    return {name: value for name, value in ids.items() if value}


class _Plain(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        ids = "".join(f" {name}={value}" for name, value in _ids().items())
        return super().formatMessage(record) + ids


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
