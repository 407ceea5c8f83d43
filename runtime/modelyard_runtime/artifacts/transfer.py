"""The parts that all schemes share: the budget, the retries, the progress lines, and a file that can be continued."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from modelyard_runtime.artifacts.copy import Budget
from modelyard_runtime.contract import PVC_MOUNT
from modelyard_runtime.errors import LoadFailed

__all__ = ["Incoming", "Transfer", "Transient", "megabytes"]

_ATTEMPTS = 5
"""In a row, without progress worth the name."""
_MOST_ATTEMPTS = 100
_PROGRESS = 1024 * 1024
"""Bytes after which a broken connection counts as a fresh start."""
_FIRST_PAUSE = 0.5  # seconds; doubles with each attempt
_LARGE = 64 * 1024 * 1024
"""A file of at least so many bytes is announced."""
_EVERY = 10.0  # seconds between two progress lines of one file

Result = TypeVar("Result")


class Transient(Exception):
    """Worth another attempt; says what happened, without an address or a credential."""


def _to_log(line: str) -> None:
    print(f"modelyard: {line}", file=sys.stderr, flush=True)


@dataclass
class Transfer:
    """One fetch: its limits, its settings, its clock and its log."""

    budget: Budget
    environ: Mapping[str, str] = field(default_factory=dict)
    """Credentials and endpoints."""
    claim_root: Path = Path(PVC_MOUNT)
    """The folder where the claim of a pvc:// uri is mounted."""
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = _to_log

    def retry(self, what: str, attempt: Callable[[], Result], incoming: Incoming | None = None) -> Result:
        """Call `attempt` until it does not raise Transient, with growing pauses.

        An attempt that brought a megabyte into `incoming` starts the count anew, so that a large file gets through an
        unsteady line. Raises LoadFailed, naming `what`, after the last attempt.
        """
        failures = 0
        for _ in range(_MOST_ATTEMPTS):
            before = incoming.size if incoming is not None else 0
            try:
                return attempt()
            except Transient as exc:
                trouble = exc
            if incoming is not None and incoming.size - before >= _PROGRESS:
                failures = 0
            failures += 1
            if failures >= _ATTEMPTS:
                break
            self.sleep(_FIRST_PAUSE * 2 ** (failures - 1))
        raise LoadFailed(f"{what}: {trouble}, {failures} times; check the server, then try again")


class Incoming:
    """A file that arrives in one or several pieces: hashed, counted against the budget, told of in the log.

    A context manager. `path` must not exist. `what` names it in the log; `total` is its size in bytes, where known.
    """

    def __init__(self, path: Path, transfer: Transfer, what: str, total: int | None = None) -> None:
        self.size = 0
        self._path, self._transfer, self._what = path, transfer, what
        self._sha256 = hashlib.sha256()
        self._total: int | None = None
        self._began = self._said = transfer.now()
        if total is not None:
            self.expect(total)

    def __enter__(self) -> Self:
        self._file = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """The lower-case hex sha256 of what has arrived."""
        return self._sha256.hexdigest()

    def expect(self, total: int) -> None:
        """Take note of the size in bytes. Raises LoadFailed at once where it is more than may be written."""
        if total - self.size > self._transfer.budget.left:
            self._transfer.budget.take(total - self.size)
        if self._total is None and total >= _LARGE:
            self._transfer.say(f"fetching {self._what}: {megabytes(total)}")
        self._total = total

    def write(self, chunk: bytes) -> None:
        """Append `chunk`. Raises LoadFailed over the budget."""
        self._transfer.budget.take(len(chunk))
        self._sha256.update(chunk)
        self._file.write(chunk)
        self.size += len(chunk)
        now = self._transfer.now()
        if now - self._said >= _EVERY:
            self._said = now
            of = f" of {megabytes(self._total)} ({100 * self.size // max(self._total, 1)}%)" if self._total else ""
            rate = megabytes(int(self.size / max(now - self._began, 0.001)))
            self._transfer.say(f"fetching {self._what}: {megabytes(self.size)}{of}, {rate}/s")

    def restart(self) -> None:
        """Forget what has arrived."""
        self._transfer.budget.left += self.size
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self.size = 0


def megabytes(count: int) -> str:
    """Return `count` bytes for a person, such as `12.3 MB`."""
    return f"{count / 1e6:,.1f} MB"
