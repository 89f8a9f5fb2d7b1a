"""Batches on their way through the steps of a work, one behind the other: steps overlap, and order stays."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.runtime.faults import PassingFault

Batch = Sequence[Any]
Step = Callable[[Any], Awaitable[Any]]
"""One part of a work: takes what the step before it gave, the first one the batch itself."""


class Line:
    """Passes batches through steps. A step has one batch at a time, in the order in which they entered.

    `passed` is told of each batch that came to the end. Where a step raises PassingFault, no batch behind it takes
    another step, and `pause` is awaited; then `rewind` gets all batches that did not come to the end, in order, and
    hands their records in again. Any other exception halts the line for good and is told to `broken`.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        passed: Callable[[], None],
        pause: Callable[[PassingFault], Awaitable[None]],
        rewind: Callable[[Sequence[Batch]], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._steps = steps
        self._turns = [asyncio.Lock() for _ in steps]  # first come, first served
        self._passed = passed
        self._pause = pause
        self._rewind = rewind
        self._broken = broken
        self._unfinished: list[Batch] = []
        self._running: set[asyncio.Task[None]] = set()
        self._going_back: asyncio.Task[None] | None = None
        self._halted = False
        self._broke = False

    def enter(self, batch: Batch) -> None:
        """Let the batch begin. The caller enters the next one only after room()."""
        self._unfinished.append(batch)
        task = asyncio.create_task(self._pass(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def room(self) -> None:
        """Return once there are fewer batches than steps on the line, and none to go back for."""
        while len(self._running) >= len(self._steps):
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        if self._going_back is not None:
            await self._going_back

    async def abandon(self) -> None:
        """Break off what batches are on the line: none of them comes to its end."""
        broken_off = list(self._running)
        for task in broken_off:
            task.cancel()
        await asyncio.gather(*broken_off, return_exceptions=True)

    async def empty(self) -> None:
        """Return once no batch is on the line any more, and none is to go back for."""
        while self._running:
            await asyncio.wait(self._running)
        if self._going_back is not None:
            await self._going_back

    async def _pass(self, batch: Batch) -> None:
        value: Any = batch
        for step, turn in zip(self._steps, self._turns, strict=True):
            async with turn:
                if self._halted:
                    return
                try:
                    value = await step(value)
                except PassingFault as fault:
                    self._halted = True
                    if self._going_back is None:
                        self._going_back = asyncio.create_task(self._go_back(fault))
                    return
                except Exception as bug:
                    self._halted = self._broke = True
                    self._broken(bug)
                    return
        self._unfinished.pop(0)  # this one: none overtakes another
        self._passed()

    async def _go_back(self, fault: PassingFault) -> None:
        try:
            await self._pause(fault)
            while self._running:
                await asyncio.wait(self._running)
            if self._broke:
                return
            # From here on nothing waits, so that every batch which enters later was read after the rewinding.
            again, self._unfinished = self._unfinished, []
            self._rewind(again)
            self._halted, self._going_back = False, None
        except Exception as bug:
            self._broke = True
            self._broken(bug)
