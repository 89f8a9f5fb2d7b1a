"""Erasures beside folds, crashes, recovery and a tracker that runs: neither loses or keeps what it should not."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.contracts.topics import CONTROL, TRACKER_GROUP, dead_letter_topic
from services.session_tracker import erasing
from services.session_tracker.faults import PostgresAway
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.recovery import recover
from services.session_tracker.store import SessionStore
from tests.integration.erased_user import (
    ALICE,
    BEFORE,
    BOB,
    KEY,
    NAMES,
    SECRET,
    World,
    assert_gone,
    request,
    session_at,
    talk,
)
from tests.integration.kafka_log import producer, read_all
from tests.integration.tracker_process import connected, publish_events, tracker, until, until_value
from tests.patience import PATIENT_SECONDS
from tests.recount import assert_rollups_exact, counted, recounted

pytestmark = pytest.mark.any_broker


async def test_a_crash_between_two_chunks_loses_nothing_and_repeats_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "CHUNK", 2)
    await world.fold(e for n in range(1, 8) for e in talk(session_at(BEFORE - timedelta(days=n), conversation=f"c{n}")))
    await world.store.begin_erasures([request()])
    write, left = erasing.write_counts, iter([True, True, False])

    async def write_or_crash(*arguments: Any) -> None:
        await write(*arguments)
        if not next(left, True):
            raise PostgresAway("The process is gone before its transaction is committed.")

    monkeypatch.setattr(erasing, "write_counts", write_or_crash)
    with pytest.raises(PostgresAway):
        await world.finish()
    assert (await world.erasure())["sessions"] == 4
    assert await counted(world.rows) == await recounted(world.rows), "half done, and right"
    await world.finish()
    assert (await world.erasure())["sessions"] == 7
    await assert_gone(world)
    assert await counted(world.rows) == await recounted(world.rows)


async def test_an_erasure_waits_for_folds_that_have_not_heard_of_it(world: World) -> None:
    one = session_at(BEFORE - timedelta(minutes=1))
    await Months(world.engine).ensure(one.session_id)
    written, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SessionStore):
        async def _told_of_erasures(self, driver: Any, arrivals: Any) -> Any:
            told = await super()._told_of_erasures(driver, arrivals)
            written.set()
            await go_on.wait()
            return told

    arrivals = [Arrival(event, event.occurred_at, 0, n) for n, event in enumerate(talk(one))]
    folding = asyncio.create_task(Slow(world.engine, NAMES).fold(arrivals, {}))
    await written.wait()
    beginning = asyncio.create_task(world.store.begin_erasures([request()]))
    async with asyncio.timeout(PATIENT_SECONDS):
        while not await world.rows.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    # Who asks now waits behind the erasure, and then knows of it.
    second = session_at(BEFORE - timedelta(minutes=2))
    asking = asyncio.create_task(world.fold(talk(second)))
    async with asyncio.timeout(PATIENT_SECONDS):
        while await world.rows.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
            await asyncio.sleep(0.01)
    assert not beginning.done()
    go_on.set()
    await asyncio.gather(folding, beginning, asking)
    assert SECRET in await world.everything(), "the first fold had not heard of it"
    await world.finish()
    await assert_gone(world)


async def test_an_erasure_that_a_fold_holds_up_gives_way(world: World) -> None:
    async with world.store.transaction() as driver:
        await world.store._told_of_erasures(driver, [Arrival(session_at(BEFORE).sent(), BEFORE, 0, 0)])
        with pytest.raises(PostgresAway):
            await world.store.begin_erasures([request()])
    await world.store.begin_erasures([request()])
    assert await world.erasure() is not None


async def test_readers_of_erasures_hold_nobody_up(world: World) -> None:
    async with connected(world.url) as reader, reader.transaction():
        await reader.fetch("SELECT * FROM erasures")  # as a dump does
        await world.erase()


async def test_recovery_sends_nothing_of_it_again(world: World, bootstrap: str) -> None:
    await world.fold([session_at(BEFORE - timedelta(minutes=1)).sent(SECRET), session_at(BEFORE, BOB).sent()])
    await world.store.begin_erasures([request()])
    async with producer(bootstrap) as client:
        assert await recover(world.engine, client) == 1, "that of bob"
        await world.finish()
        assert await recover(world.engine, client) == 1


async def test_a_tracker_applies_it_while_events_go_on_and_refuses_one_of_nobody(bootstrap: str, world: World) -> None:
    chance, now = random.Random(5), datetime.now(UTC)
    mine = [session_at(now - timedelta(minutes=n), conversation=f"c{n % 7}") for n in range(1, 60)]
    others = [session_at(now - timedelta(minutes=n), BOB, f"b{n % 7}") for n in range(1, 60)]
    events = [event for one in (*mine, *others) for event in talk(one)]
    chance.shuffle(events)
    requests = [request(before=now, conversation=f"c{n}") for n in range(7)]
    async with tracker(bootstrap, world.url, user_hash_key=KEY.decode()) as running:
        await running.until_ready()
        await publish_events(bootstrap, events[:150])
        await publish_events(bootstrap, [*events[150:200], *requests, *events[200:]])
        await publish_events(bootstrap, events[:50])
        await until_value(world.url, "SELECT count(*) FROM session_events", len(events))
        await until_value(world.url, 'SELECT count(*) FROM erasures WHERE "finishedAt" IS NOT NULL', 1)

        async def told() -> bool:
            return "chat_erasures_open 0.0" in await running.metrics()

        await until(told, "the metric told that none is open")
        await publish_events(bootstrap, [request(NAMES.erased(ALICE), datetime.now(UTC))])
        topic = dead_letter_topic(CONTROL.name, TRACKER_GROUP).name

        async def refused() -> bool:
            return [dict(r.headers)["dlq-reason"] for r in await read_all(bootstrap, topic)] == [b"erased-user"]

        await until(refused, "it was dead-lettered")
    assert await world.rows.fetchval("SELECT count(*) FROM erasures") == 1
    assert ALICE not in await world.everything()
    assert await world.rows.fetchval(f"SELECT count(*) FROM messages WHERE content LIKE '%{SECRET}%'") == 2 * len(
        others
    )
    assert await world.rows.fetchval("SELECT count(*) FROM chat_sessions WHERE status = 'COMPLETED'") == 118
    await assert_rollups_exact(world.url)
