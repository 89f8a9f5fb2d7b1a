"""Does together what is asked for at the same time: one statement for many requests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 500
"""Of what is done together."""


class Gathered(Generic[T, R]):
    """Work on one thing at a time for callers, and on all that gathered meanwhile at a time for `work`.

    Whoever comes while nothing is under way waits for nobody. `work` returns a result for each thing, in order; what it
    raises is raised to everyone whose thing was among them.
    """

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def do(self, thing: T) -> R:
        """Return what comes of the thing. Who stops waiting does not stop the work."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, result))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await result

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._do(batch)
        finally:
            self._worker = None

    async def _do(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([thing for thing, _ in batch])
        except Exception as error:
            for _, result in batch:
                if not result.done():
                    result.set_exception(error)
            return
        for (_, result), told in zip(batch, results, strict=True):
            if not result.done():
                result.set_result(told)
