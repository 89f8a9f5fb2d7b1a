"""Time limits without timers of their own."""

import asyncio

import pytest

from services.runtime.time_limits import TimeLimit, Watch


async def test_what_takes_too_long_is_ended() -> None:
    watch = Watch()
    limit = TimeLimit(watch, 0.01)
    with pytest.raises(TimeoutError), limit:
        await asyncio.Event().wait()
    assert limit.is_over
    with TimeLimit(watch, 60):
        await asyncio.sleep(0)


async def test_who_is_cancelled_by_others_stays_so() -> None:
    async def work() -> None:
        with TimeLimit(Watch(), 60):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
