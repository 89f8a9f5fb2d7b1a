"""Waiting is prepared only where there is something to wait for."""

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """Something awaitable that has gone as far as it could without waiting; awaited, it goes on to its end.

    Most requests are there as a whole, and most answers fit into a socket's buffer: a timer, or whatever else is to
    surround a wait, would be made for nothing. Where it ends at once with an error, that is raised here.
    """

    __slots__ = ("_awaited", "_rest", "result")

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._rest: Generator[Any, Any, T] | None = awaitable.__await__()
        self.result: T
        try:
            self._awaited = self._rest.send(None)
        except StopIteration as end:
            self._end(end)

    @property
    def has_ended(self) -> bool:
        """Whether `result` is there."""
        return self._rest is None

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for what it waits for, and return its result."""
        while self._rest is not None:
            try:
                try:
                    told = yield self._awaited
                except BaseException as error:
                    self._awaited = self._rest.throw(error)
                else:
                    self._awaited = self._rest.send(told)
            except StopIteration as end:
                self._end(end)
        return self.result

    def _end(self, end: StopIteration) -> None:
        self._rest, self.result = None, end.value
