"""The numbers that the workers of one server share at once: a file in their folder that all of them have mapped."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

__all__ = ["SharedState"]

_FILE = "state"
_CHECKED, _COMPLETE, _ENDING, _FIRST = 0, 1, 2, 3


class SharedState:
    """Each number is a double at an aligned place, which processors write and read whole: there are no locks."""

    def __init__(self, folder: Path, workers: int) -> None:
        """Map the state of `folder`, which was created. Raises OSError."""
        with (folder / _FILE).open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._workers = workers

    @classmethod
    def create(cls, folder: Path, workers: int) -> SharedState:
        """Make the state: nobody is ready, no router has asked. Raises OSError."""
        (folder / _FILE).write_bytes(bytes(8 * (_FIRST + 2 * workers)))
        state = cls(folder, workers)
        state.checked = -math.inf
        return state

    @property
    def checked(self) -> float:
        """When a router last asked any worker for its health, in monotonic seconds, the same for all processes."""
        return self._cells[_CHECKED]

    @checked.setter
    def checked(self, now: float) -> None:
        self._cells[_CHECKED] = now

    @property
    def complete(self) -> bool:
        """Whether all workers have been ready together: true for good from then on."""
        return bool(self._cells[_COMPLETE])

    @property
    def ending(self) -> bool:
        """Whether the server ends, and not one worker alone."""
        return bool(self._cells[_ENDING])

    def end(self) -> None:
        """Note that the server ends."""
        self._cells[_ENDING] = 1

    def set_ready(self, index: int, *, ready: bool) -> None:
        """Note whether a worker has its models ready."""
        self._cells[_FIRST + index] = ready
        if all(self._cells[_FIRST : _FIRST + self._workers]):
            self._cells[_COMPLETE] = 1

    def is_ready(self, index: int) -> bool:
        """Whether a worker has its models ready."""
        return bool(self._cells[_FIRST + index])

    def beat(self, index: int) -> None:
        """Note that a worker's event loop turns."""
        self._cells[_FIRST + self._workers + index] += 1

    def beats(self, index: int) -> float:
        """Return how often it was noted."""
        return self._cells[_FIRST + self._workers + index]
