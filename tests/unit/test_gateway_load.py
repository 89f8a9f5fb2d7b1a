"""Work in hand, and what is none."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from services.api_gateway.load import PLACE, Load, Place, is_crowded, resting


@pytest.fixture
def load() -> Load:
    return Load(1, 1, Gauge("in_hand", "Requests", registry=CollectorRegistry()))


@pytest.fixture
async def place(load: Load) -> AsyncIterator[Place]:
    with Place(load, 60) as place:
        token = PLACE.set(place)
        yield place
        PLACE.reset(token)


async def test_who_rests_leaves_room_and_comes_back_to_his_place(load: Load, place: Place) -> None:
    assert load.is_full
    with resting():
        assert not load.is_full
        assert is_crowded()
        with resting():
            assert not load.is_full
    assert load.is_full
    assert not is_crowded()


@pytest.mark.parametrize("while_resting", [True, False])
async def test_a_stream_counts_as_nothing_once_it_has_begun(load: Load, place: Place, while_resting: bool) -> None:
    if while_resting:
        with resting():
            place.leave()
            assert not load.is_crowded
    else:
        place.leave()
    assert not load.is_full
    with resting():
        assert not load.is_crowded


async def test_rest_is_added_to_the_time_for_work(load: Load) -> None:
    async def rest_and_work() -> None:
        with Place(load, 0.2) as place:
            with place.resting():
                await asyncio.sleep(0.8)
            rested.set()
            await asyncio.Event().wait()

    rested = asyncio.Event()
    with pytest.raises(TimeoutError):
        await rest_and_work()
    assert rested.is_set()
    assert not load.is_full


async def test_outside_of_a_request_nothing_is_counted() -> None:
    with resting():
        assert not is_crowded()
