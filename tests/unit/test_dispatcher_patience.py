"""Calls are broken off at their limits, and only then."""

import asyncio
import time

import pytest

from services.runtime.time_limits import Watch
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.n8n import LOOK_SECONDS
from services.webhook_dispatcher.patience import Patience


async def test_a_call_is_broken_off_soon_after_its_limit() -> None:
    watch = Watch(LOOK_SECONDS)
    began = time.monotonic()
    patience = Patience(watch, Course(began, 0.1))
    with pytest.raises(TimeoutError), patience:
        await asyncio.Event().wait()
    assert patience.exceeded == "no connection within 0.1 s"
    assert 0.1 <= time.monotonic() - began < 0.1 + 20 * LOOK_SECONDS


async def test_the_limit_is_that_of_the_stage_which_the_call_has_reached() -> None:
    began = time.monotonic()
    course = Course(began, 60.0, first_byte_seconds=60.0, idle_seconds=0.1)
    course.connected(began)
    course.answered(began)
    patience = Patience(Watch(LOOK_SECONDS), course)
    with pytest.raises(TimeoutError), patience:
        await asyncio.Event().wait()
    assert patience.exceeded is not None
    assert patience.exceeded.startswith("idleSeconds, 0.1 s")


async def test_a_call_with_time_left_goes_on_while_another_is_broken_off() -> None:
    watch, began = Watch(LOOK_SECONDS), time.monotonic()
    short, long = Patience(watch, Course(began, 0.1)), Patience(watch, Course(began, 60.0))
    with long:
        with pytest.raises(TimeoutError), short:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
    assert (short.exceeded is not None, long.exceeded) == (True, None)


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    patience, inside = Patience(Watch(LOOK_SECONDS), Course(time.monotonic(), 60.0)), asyncio.Event()

    async def call() -> None:
        with patience:
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert patience.exceeded is None


async def test_a_later_call_is_watched_after_all_others_have_ended() -> None:
    watch = Watch(LOOK_SECONDS)
    for _ in range(2):
        with pytest.raises(TimeoutError), Patience(watch, Course(time.monotonic(), 0.05)):
            await asyncio.Event().wait()
        await asyncio.sleep(2 * LOOK_SECONDS)  # until it has seen that there is none
