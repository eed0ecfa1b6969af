"""What many requests do in one tick of the event loop, done one right after the other.

A step that a request takes by itself finds its code out of the processor's caches, and takes three times as long as the
same step right after another of its kind (docs/adr/0009).
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple

_Given = TypeVarTuple("_Given")
_Result = TypeVar("_Result")


class InTurn(Generic[*_Given, _Result]):
    """A function, for callers that may wait until the others of this tick call it too."""

    def __init__(self, function: Callable[[*_Given], _Result]) -> None:
        self._function = function
        self._waiting: list[tuple[asyncio.Future[_Result], tuple[*_Given]]] = []

    def __call__(self, *given: *_Given) -> "asyncio.Future[_Result]":
        """What the function returns or raises. It is not called any more when its caller is gone by then."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._call_all)
        result: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append((result, given))
        return result

    def _call_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for result, given in waiting:
            if not result.done():
                try:
                    result.set_result(self._function(*given))
                except Exception as exc:  # noqa: BLE001 - its caller's
                    result.set_exception(exc)
