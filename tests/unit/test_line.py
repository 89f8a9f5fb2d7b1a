"""The line of batches: order, overlap, and going back as a whole."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from services.runtime.faults import PassingFault
from services.runtime.line import Line

LIMIT_SECONDS = 10


class Works:
    """Two steps that write down what they do, and what the line tells."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.again: list[Sequence[int]] = []
        self.finished = 0
        self.bugs: list[Exception] = []
        self.hold: dict[str, asyncio.Event] = {}
        self.trouble: dict[str, Exception] = {}
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()
        self.line = Line(
            [self.first, self.second],
            passed=self._passed,
            pause=self._pause,
            rewind=self.again.extend,
            broken=self.bugs.append,
        )

    async def first(self, batch: Sequence[int]) -> Sequence[int]:
        await self._do(f"first {batch[0]}")
        return [-number for number in batch]

    async def second(self, batch: Sequence[int]) -> None:
        await self._do(f"second {-batch[0]}")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not condition():
                await asyncio.sleep(0)

    async def _do(self, what: str) -> None:
        self.log.append(what)
        if what in self.hold:
            await self.hold[what].wait()
        if what in self.trouble:
            raise self.trouble[what]

    def _passed(self) -> None:
        self.finished += 1

    async def _pause(self, fault: PassingFault) -> None:
        self.paused.set()
        await self.go_on.wait()


async def test_a_batch_is_in_its_first_step_while_the_one_before_is_in_its_second() -> None:
    works = Works()
    works.hold = {"second 1": asyncio.Event()}
    works.line.enter([1])
    works.line.enter([2])
    works.line.enter([3])
    await works.until(lambda: works.log == ["first 1", "second 1", "first 2", "first 3"])
    works.hold["second 1"].set()
    await works.line.empty()
    assert works.log[4:] == ["second 2", "second 3"]
    assert (works.finished, works.again) == (3, [])


async def test_room_is_for_as_many_batches_as_there_are_steps() -> None:
    works = Works()
    works.hold = {"second 1": asyncio.Event()}
    works.line.enter([1])
    await works.line.room()
    works.line.enter([2])
    waiting = asyncio.create_task(works.line.room())
    await works.until(lambda: works.log[-1:] == ["first 2"])
    assert not waiting.done()
    works.hold["second 1"].set()
    await asyncio.wait_for(waiting, LIMIT_SECONDS)


@pytest.mark.parametrize("where", ["first 2", "second 2"])
async def test_a_fault_brings_back_its_batch_and_those_behind_it_in_order(where: str) -> None:
    works = Works()
    works.trouble = {where: PassingFault("away")}
    for number in (1, 2, 3):
        works.line.enter([number])
    await asyncio.wait_for(works.paused.wait(), LIMIT_SECONDS)
    works.line.enter([4])
    waiting = asyncio.create_task(works.line.room())
    await works.until(lambda: works.finished == 1)
    assert not works.again
    assert not waiting.done()
    works.go_on.set()
    await asyncio.wait_for(waiting, LIMIT_SECONDS)
    assert works.again == [[2], [3], [4]]
    assert not any(done in works.log for done in ("second 3", "first 4"))
    works.trouble = {}
    for batch in works.again:
        works.line.enter(batch)
    await works.line.empty()
    assert [step for step in works.log if step.startswith("second")][-3:] == ["second 2", "second 3", "second 4"]
    assert works.finished == 4


async def test_a_batch_ahead_that_fails_as_well_is_the_first_to_come_back() -> None:
    works = Works()
    works.hold = {"second 1": asyncio.Event()}
    works.trouble = {"second 1": PassingFault("away"), "first 2": PassingFault("away")}
    works.line.enter([1])
    works.line.enter([2])
    await asyncio.wait_for(works.paused.wait(), LIMIT_SECONDS)
    works.go_on.set()
    works.hold["second 1"].set()
    await works.line.empty()
    assert works.again == [[1], [2]]
    assert works.finished == 0


async def test_a_bug_halts_the_line_for_good() -> None:
    works = Works()
    works.trouble = {"first 2": KeyError("a bug")}
    for number in (1, 2, 3):
        works.line.enter([number])
    await works.line.empty()
    works.line.enter([4])
    await works.line.empty()
    assert set(works.log) == {"first 1", "second 1", "first 2"}
    assert [repr(bug) for bug in works.bugs] == ["KeyError('a bug')"]
    assert (works.finished, works.again) == (1, [])


async def test_what_is_broken_off_comes_to_no_end() -> None:
    works = Works()
    works.hold["second 1"] = asyncio.Event()
    works.line.enter([1])
    works.line.enter([2])
    await works.until(lambda: "first 2" in works.log and "second 1" in works.log)
    await works.line.abandon()
    await works.line.empty()
    assert (works.finished, works.bugs, works.again) == (0, [], [])
    assert "second 2" not in works.log
