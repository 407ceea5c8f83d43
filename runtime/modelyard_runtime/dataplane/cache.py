"""Answers that may be given again: least recently used go first, bounded in bytes and in age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["AnswerCache"]

_OVERHEAD = 400
"""Bytes that an entry takes beside its input and answer: the key's tuple, the dictionary's slot, object headers."""


class AnswerCache:
    """A TTL and LRU cache of answers. Not thread-safe: for the event loop's thread alone.

    The key is all that an answer depends on (model, version, shape and bytes of the input): two models never share one.
    """

    def __init__(
        self, *, ttl: float, max_bytes: int, clock: Callable[[], float], size: Callable[[Any], int] = len
    ) -> None:
        """`ttl` in seconds, 0 for never; `clock` gives monotonic seconds, `size` the bytes of an answer."""
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[float, int, Any]] = OrderedDict()
        self.bytes = 0
        """What the entries take now."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """Return the answer, or None when there is none or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, _, answer = entry
        if self._clock() >= expires:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: Hashable, answer: Any, input_bytes: int) -> None:
        """Keep an answer whose key holds `input_bytes` bytes; one that is larger than the whole cache is not kept."""
        size = self._size(answer) + input_bytes + _OVERHEAD
        if size > self._max_bytes or self._ttl <= 0:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (self._clock() + self._ttl, size, answer)
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def forget(self, matches: Callable[[Any], bool]) -> None:
        """Drop the answers of which `matches(key)` is true."""
        for key in [key for key in self._entries if matches(key)]:
            self._remove(key)

    def _remove(self, key: Hashable) -> None:
        self.bytes -= self._entries.pop(key)[1]
