"""Erasures: nothing of the user stays or comes back, and nobody else loses a thing."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.database.partitions import id_at, next_month
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker import erasing
from services.session_tracker.erasing import Erasing
from services.session_tracker.fold import Arrival, by_session, fold
from services.session_tracker.retention import Retention
from tests.integration.erased_user import (
    ALICE,
    BEFORE,
    BOB,
    NAMES,
    SECRET,
    World,
    assert_gone,
    request,
    session_at,
    talk,
)
from tests.recount import counted, recounted


async def test_everything_that_the_user_wrote_is_taken_out_and_what_counts_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "CHUNK", 3)
    ends = ["succeeded", "failed", "cancelled", "open"] * 3
    hers = [
        talk(session_at(BEFORE - timedelta(hours=7 * n + 1), conversation=f"c{n % 5}"), end)
        for n, end in enumerate(ends)
    ]
    await world.fold(event for told in hers for event in told)
    before = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    history = await world.rows.fetch('SELECT "sessionId", "eventId", type, late FROM session_events ORDER BY 1, 2')
    await world.erase()
    await assert_gone(world)
    after = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    unchanged = [name for name in dict(before.popitem()[1]) if name not in {"userId", "metadata", "errorMessage"}]
    for session_id, row in before.items():
        assert [after[session_id][name] for name in unchanged] == [row[name] for name in unchanged]
    assert {row["userId"] for row in after.values()} == {NAMES.erased(ALICE)}
    assert {(row["metadata"], row["errorMessage"]) for row in after.values()} == {("{}", None)}
    assert (
        await world.rows.fetch('SELECT "sessionId", "eventId", type, late FROM session_events ORDER BY 1, 2') == history
    )
    assert await world.rows.fetchval("SELECT count(*) FROM session_events WHERE body IS NOT NULL") == 0
    assert await world.rows.fetchval("SELECT count(*) FROM messages WHERE content IS NOT NULL") == 0
    erasure = await world.erasure()
    counts = [erasure[name] for name in ("conversations", "sessions", "messages", "events")]
    assert counts == [5, 12, 15, len(history)]
    assert erasure["finishedAt"] is not None
    assert await counted(world.rows) == await recounted(world.rows)
    assert world.metrics.erased._value.get() == 12
    told = await world.rows.fetchrow("SELECT * FROM audit_log WHERE action = 'user.erase'")
    assert (told["actor"], told["target"], told["outcome"]) == ("session-tracker", f"user:{NAMES.of(ALICE)}", "erased")


async def test_nobody_else_and_nothing_later_loses_a_thing(world: World) -> None:
    old = session_at(BEFORE - timedelta(minutes=1))
    later = session_at(BEFORE)
    bobs = [session_at(BEFORE - timedelta(hours=n), BOB, conversation="c1") for n in range(3)]
    bobs.append(session_at(BEFORE - timedelta(minutes=1), BOB, conversation="of-bob"))
    await world.fold([*talk(old), *talk(later), *(event for one in bobs for event in talk(one))])
    before = await world.of(BOB)
    await world.erase()
    assert await world.of(BOB) == before
    sessions, messages, events, conversations = await world.of(ALICE)
    assert [row[4] for row in sessions] == [later.session_id]
    assert all(SECRET in row[3] for row in messages)
    assert len(events) == 3
    assert conversations == []
    assert await counted(world.rows) == await recounted(world.rows)


async def test_events_that_come_again_and_events_that_come_late_bring_nothing_back(world: World) -> None:
    known, late, unseen, other = (session_at(BEFORE - timedelta(minutes=n)) for n in range(1, 5))
    first = [*talk(known), late.sent(f"my {SECRET}"), *talk(other, "open")]
    await world.fold(first)
    await world.erase()
    snapshot = await world.everything()
    await world.fold(first)
    assert await world.everything() == snapshot
    ending = late.succeeded(f"your {SECRET}", at=BEFORE + timedelta(hours=2))
    cancel = other.cancelled(by=ALICE).model_copy(update={"reason": SECRET})
    await world.fold([ending, known.failed().model_copy(update={"error_message": SECRET}), cancel])
    await world.fold(talk(unseen))
    await assert_gone(world)
    found = await world.rows.fetch('SELECT "sessionId", status, "userId", version FROM chat_sessions ORDER BY 1 DESC')
    assert [tuple(row) for row in found] == [
        (known.session_id, "COMPLETED", NAMES.erased(ALICE), 3),
        (late.session_id, "COMPLETED", NAMES.erased(ALICE), 2),
        (unseen.session_id, "COMPLETED", NAMES.erased(ALICE), 3),
        (other.session_id, "CANCELLED", NAMES.erased(ALICE), 3),
    ]
    assert await world.rows.fetchval("SELECT count(*) FROM session_events WHERE late") == 1
    assert await counted(world.rows) == await recounted(world.rows)
    await world.erase()  # the same request again
    assert len(await world.rows.fetch("SELECT * FROM erasures")) == 1


async def test_what_an_admin_cancels_after_an_erasure_keeps_nothing_personal_either(world: World) -> None:
    one = session_at(BEFORE - timedelta(minutes=1))
    await world.fold([one.sent(f"my {SECRET}")])
    await world.erase()
    cancel = one.cancelled(by="root").model_copy(update={"user_id": NAMES.erased(ALICE), "reason": SECRET})
    await world.fold([cancel])
    assert await world.rows.fetchval("SELECT status FROM chat_sessions") == "CANCELLED"
    await assert_gone(world)
    audit = await world.rows.fetch("SELECT actor FROM audit_log WHERE action = 'session.cancel'")
    assert [row["actor"] for row in audit] == ["root"]


moments = st.integers(-300, 60)
ENDS = ("succeeded", "failed", "cancelled", "open")
scripts = st.lists(
    st.tuples(moments, st.sampled_from([ALICE, BOB]), st.integers(0, 2), st.sampled_from(ENDS)), min_size=1, max_size=9
)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scripts=scripts, order=st.randoms(use_true_random=False), begun=st.integers(0, 6), worked=st.integers(0, 6))
async def test_whenever_it_comes_the_same_is_left(world: World, scripts, order, begun: int, worked: int) -> None:
    """Batches in any order, some twice; the erasure begins and is worked on between any two of them."""
    await world.rows.execute(
        "TRUNCATE chat_sessions, messages, session_events, conversations, session_rollups, erasures"
    )
    told = [
        talk(session_at(BEFORE + timedelta(minutes=minute), user, f"{user}-{number}"), end)
        for minute, user, number, end in scripts
    ]
    events = [event for one in told for event in one]
    rest = order.sample(events + events[::2], len(events) + len(events[::2]))
    for step in range(8):
        if step == begun:
            await world.store.begin_erasures([request()])
        if step >= begun and step == worked:
            await world.finish()
        await world.fold(rest[step::8], step)
    await world.finish()
    rows = {row["sessionId"]: row for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    for session_id, arrivals in by_session([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)]):
        row, session = rows[session_id], fold(None, arrivals).session
        erased = session.user_id == ALICE and session_id < id_at(BEFORE)
        assert (row["status"], row["version"], row["attempts"]) == (session.status, session.version, session.attempts)
        assert row["userId"] == (NAMES.erased(ALICE) if erased else session.user_id)
        assert json.loads(row["metadata"]) == ({} if erased else session.metadata)
        assert row["errorMessage"] == (None if erased else session.error_message)
        kept = await world.rows.fetch('SELECT "eventId", body FROM session_events WHERE "sessionId" = $1', session_id)
        assert {r["eventId"] for r in kept} == {a.event.event_id for a in arrivals}
        assert all((r["body"] is None) == erased for r in kept)
        said = await world.rows.fetch('SELECT content FROM messages WHERE "chatSessionId" = $1', session_id)
        assert all((r["content"] is None) == erased for r in said)
        assert len(said) == sum(type(a.event).__name__ in {"MessageSent", "WebhookSucceeded"} for a in arrivals)
    assert await counted(world.rows) == await recounted(world.rows)
    assert await world.drift(BEFORE - timedelta(days=1), BEFORE + timedelta(days=1)) == []


async def test_the_statistics_of_dropped_months_go_to_what_stands_for_the_user(world: World) -> None:
    may = datetime(2026, 5, 3, tzinfo=UTC)
    await world.fold([*talk(session_at(may)), *talk(session_at(may, BOB)), *talk(session_at(BEFORE))])
    await Retention(world.engine, world.metrics, keep=timedelta(days=30)).drop_due(next_month(may) + timedelta(days=60))
    before = await counted(world.rows)
    await world.erase()
    after = await counted(world.rows)
    renamed = {
        (
            granularity,
            scope.replace(f"user:{ALICE}", f"user:{NAMES.erased(ALICE)}")
            if day < BEFORE - timedelta(days=1)
            else scope,
            day,
            what,
        ): n
        for (granularity, scope, day, what), n in before.items()
    }
    assert after == renamed
    assert any(scope == f"user:{ALICE}" for _, scope, _, _ in after), "of the day itself, since"


async def test_two_users_one_after_the_other_and_one_twice(world: World) -> None:
    await world.fold([*talk(session_at(BEFORE - timedelta(hours=1))), *talk(session_at(BEFORE, BOB))])
    await world.fold(talk(session_at(BEFORE + timedelta(hours=1))))
    await world.erase(request(), request(BOB, BEFORE + timedelta(minutes=1)), request(conversation="c2"))
    assert len(await world.rows.fetch("SELECT * FROM erasures")) == 2
    await world.erase(request(before=BEFORE + timedelta(hours=2)))
    users = {row["userId"] for row in await world.rows.fetch("SELECT * FROM chat_sessions")}
    assert users == {NAMES.erased(ALICE), NAMES.erased(BOB)}
    assert await counted(world.rows) == await recounted(world.rows)
    assert world.metrics.erasures_open._value.get() == 0


async def test_without_a_key_the_user_is_nobody(world: World) -> None:
    await world.fold(talk(session_at(BEFORE - timedelta(minutes=1))))
    await world.store.begin_erasures([request()])
    await Erasing(world.engine, Pseudonyms(None), world.metrics).run(datetime.now(UTC))
    assert await world.rows.fetchval('SELECT "userId" FROM chat_sessions') == "erased:unnamed"
    await assert_gone(world)
