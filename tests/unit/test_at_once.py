"""Waiting is prepared only where there is something to wait for."""

import asyncio

import pytest

from services.runtime.at_once import Begun


async def told(*futures: asyncio.Future[str]) -> str:
    return "".join([await future for future in futures])


async def test_what_need_not_wait_has_ended_at_once() -> None:
    begun = Begun(told())
    assert begun.has_ended
    assert begun.result == await begun == ""


async def test_what_waits_goes_on_where_it_stood() -> None:
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    begun = Begun(told(first, second))
    assert not begun.has_ended
    asyncio.get_running_loop().call_soon(first.set_result, "a")
    asyncio.get_running_loop().call_later(0.01, second.set_result, "b")
    assert await begun == "ab"
    assert begun.has_ended


async def test_errors_are_raised_where_they_come() -> None:
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(ConnectionError)
    with pytest.raises(ConnectionError):
        Begun(told(failed))
    later = asyncio.get_running_loop().create_future()
    begun = Begun(told(later))
    later.set_exception(ConnectionError)
    with pytest.raises(ConnectionError):
        await begun


async def test_who_waits_no_more_ends_it() -> None:
    waited = asyncio.get_running_loop().create_future()
    begun = Begun(told(waited))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await begun
    assert waited.cancelled()
