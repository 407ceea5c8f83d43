"""The first step of a coroutine, taken without a task: all that most predictions need, at a quarter of the cost."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Stepped", "take_first_step"]

_T = TypeVar("_T")


class Stepped(Generic[_T]):
    """A coroutine whose first step was taken outside a task; awaiting it takes the others."""

    def __init__(self, coroutine: Coroutine[Any, Any, _T], waiting: Any) -> None:
        """`waiting` is the future that the first step gave."""
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, _T]:
        waiting = self._waiting
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as exc:  # a cancellation, for instance
                step: Callable[[Any], Any] = self._coroutine.throw
                argument: Any = exc
            else:
                step, argument = self._coroutine.send, sent
            try:
                waiting = step(argument)
            except StopIteration as done:
                result: _T = done.value
                return result


def take_first_step(coroutine: Coroutine[Any, Any, _T]) -> _T | Stepped[_T]:
    """Return the result of a coroutine that needs no more than one step, else the rest of it, to be awaited."""
    try:
        waiting = coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    return Stepped(coroutine, waiting)
