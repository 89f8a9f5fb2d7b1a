"""What is asked for at the same time is done together."""

import asyncio
from collections.abc import Sequence

import pytest

from services.api_gateway import gathering
from services.api_gateway.gathering import Gathered


class Doubling:
    """Doubles numbers once it may; refuses what holds a zero."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.batches: list[list[int]] = []
        self.gathered = Gathered(self.doubled)

    async def doubled(self, numbers: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(numbers))
        await self.may.wait()
        if 0 in numbers:
            raise ValueError("zero")
        return [2 * number for number in numbers]

    async def ask(self, *numbers: int) -> list[asyncio.Task[int]]:
        """Ask for each, and return once all have asked."""
        asked = [asyncio.create_task(self.gathered.do(number)) for number in numbers]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return asked


async def test_who_comes_meanwhile_is_served_together_and_in_order() -> None:
    work = Doubling()
    asked = [*await work.ask(1), *await work.ask(2, 3)]
    assert work.batches == [[1]]
    work.may.set()
    assert await asyncio.gather(*asked) == [2, 4, 6]
    assert work.batches == [[1], [2, 3]]
    assert await work.gathered.do(4) == 8


async def test_a_failure_is_told_to_all_whom_it_concerns_and_no_others() -> None:
    work = Doubling()
    asked = [*await work.ask(1), *await work.ask(0, 2)]
    work.may.set()
    first, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert first == 2
    assert [type(other) for other in others] == [ValueError, ValueError]
    assert await work.gathered.do(3) == 6


async def test_who_stops_waiting_stops_nobody_else() -> None:
    work = Doubling()
    first, second, third = [*await work.ask(1), *await work.ask(2, 3)]
    first.cancel()
    second.cancel()
    work.may.set()
    assert await third == 6
    assert first.cancelled()
    assert second.cancelled()


async def test_no_more_is_done_together_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST", 2)
    work = Doubling()
    asked = [*await work.ask(1), *await work.ask(2, 3, 4)]
    work.may.set()
    assert await asyncio.gather(*asked) == [2, 4, 6, 8]
    assert work.batches == [[1], [2, 3], [4]]
