"""Streams of lists: what changes among one's own sessions, or everyone's for an admin, under a filter."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import pytest_asyncio

from services.api_gateway.answer_models import Session
from services.api_gateway.live import lists, recent
from services.contracts import FailureKind, SessionStatus, new_id
from services.contracts.ids import id_time
from services.database.tables import erasures
from services.local.postgres import EmbeddedPostgres
from tests.integration.gateway import ADA, BOB, ROOT, Gateway
from tests.integration.live import LIVE, Tells, listening_to_list, live_gateway, telling

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with live_gateway(broker, module_postgres_url) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tells(broker: str) -> AsyncIterator[Tells]:
    async with telling(broker) as running:
        yield running


async def test_everyone_is_told_of_his_own_sessions_and_an_admin_of_all(gateway: Gateway, tells: Tells) -> None:
    async with (
        listening_to_list(gateway) as ada,
        listening_to_list(gateway, headers=BOB) as bob,
        listening_to_list(gateway, headers=ROOT) as own,
        listening_to_list(gateway, headers=ROOT, userId="*") as everyones,
        listening_to_list(gateway, headers=ROOT, userId="bob") as bobs,
    ):
        of_ada = await tells.change(new_id())
        of_bob = await tells.change(new_id(), user_id="bob")
        of_root = await tells.change(new_id(), user_id="root")
        assert await everyones.sessions(3) == [of_ada, of_bob, of_root]
        assert (await ada.sessions(1), await bob.sessions(1), await bobs.sessions(1)) == ([of_ada], [of_bob], [of_bob])
        assert await own.sessions(1) == [of_root]
        # Nothing else had come before what comes last.
        last = {user: await tells.change(new_id(), user_id=user) for user in ("ada", "bob", "root")}
        assert [await one.sessions(1) for one in (ada, bob, own)] == [[last[user]] for user in ("ada", "bob", "root")]


async def test_a_change_is_told_as_the_list_tells_the_session(gateway: Gateway, tells: Tells) -> None:
    columns = {"metadata": {"env": "dev", "ü": [1, None]}, "error_message": 'It "broke",\r\nreally.', "attempts": 3}
    columns |= {"failure_kind": FailureKind.TIMEOUT, "ended_at": datetime.now(UTC)}
    session_id = await gateway.add_session(status=SessionStatus.FAILED, version=2, **columns)
    async with listening_to_list(gateway) as ada:
        [listed] = (await gateway.get("/api/chat-sessions")).json()["items"]
        activity = {"last_activity_at": datetime.fromisoformat(listed["lastActivityAt"])}
        await tells.change(session_id, SessionStatus.FAILED, 2, **columns, **activity)
        told = (await ada.expect("session")).data
    assert told == listed
    assert set(told) == {field.alias for field in Session.model_fields.values()} | {
        "id",
        "status",
        "metadata",
        "attempts",
        "version",
    }


async def test_a_filter_tells_what_it_finds_and_what_it_finds_no_more(gateway: Gateway, tells: Tells) -> None:
    active, failed, other = new_id(), new_id(), new_id()
    ended = {"ended_at": datetime.now(UTC), "error_message": "It broke.", "failure_kind": FailureKind.TIMEOUT}
    async with (
        listening_to_list(gateway, status="ACTIVE", personaId="echo") as running,
        listening_to_list(gateway, q='failure:timeout "BROKE" -persona:other') as timeouts,
        listening_to_list(gateway) as everything,
    ):
        await tells.change(active)
        await tells.change(other, persona_id="other")
        await tells.change(failed)
        await tells.change(active, SessionStatus.COMPLETED, 2, response_ms=5, ended_at=datetime.now(UTC))
        await tells.change(other, SessionStatus.FAILED, 2, persona_id="other", **ended)
        await tells.change(failed, SessionStatus.FAILED, 2, **ended)
        told = [(event.name, event.session) for event in [await running.next() for _ in range(4)] if event]
        assert told == [
            ("session", str(active)), ("session", str(failed)), ("left", str(active)), ("left", str(failed)),
        ]  # fmt: skip
        assert (await timeouts.expect("session")).data["sessionId"] == str(failed)
        assert await everything.sessions(6) == [str(one) for one in (active, other, failed, active, other, failed)]
        # A change of a session that had left already is no news.
        await tells.change(failed, SessionStatus.FAILED, 3, previous_status=SessionStatus.FAILED, **ended)
        after = await tells.change(new_id())
        assert await running.sessions(1) == [after]


async def test_left_says_how_the_session_ended(gateway: Gateway, tells: Tells) -> None:
    session_id = new_id()
    async with listening_to_list(gateway, status="ACTIVE") as running:
        await tells.change(session_id, SessionStatus.CANCELLED, 2, ended_at=datetime.now(UTC))
        left = await running.expect("left")
    assert left.data == {"sessionId": str(session_id), "version": 2, "status": "CANCELLED"}


@pytest.mark.parametrize("query", [{}, {"q": "-persona:other"}], ids=["all", "filter"])
async def test_who_comes_back_is_told_all_that_he_missed_and_nothing_twice(
    gateway: Gateway, tells: Tells, query: dict[str, str]
) -> None:
    conversations = [f"c-{number}" for number in range(12)]  # over several partitions
    told: list[str] = []
    known: str | None = None
    sent = [new_id() for _ in range(100)]
    async with listening_to_list(gateway, **query) as first:
        known = first.last_id
    for round_ in range(5):
        # Half of them while nobody listens, half while somebody does; and he is cut off in the midst of them.
        some = sent[round_ * 20 : round_ * 20 + 20]
        for number, session_id in enumerate(some[:10]):
            await tells.change(session_id, conversation_id=conversations[number])
            await tells.change(new_id(), user_id="bob", conversation_id=conversations[number])
        async with listening_to_list(gateway, known=known, **query) as again:
            for number, session_id in enumerate(some[10:]):
                await tells.change(session_id, conversation_id=conversations[number])
            told += await again.sessions(7 + 2 * round_ if round_ < 4 else 100 - len(told))
            known = again.last_id
    assert sorted(told) == sorted(str(one) for one in sent)


@pytest.mark.parametrize("query", [{}, {"q": "-persona:other", "userId": "*"}], ids=["all", "filter"])
async def test_who_comes_back_is_told_nothing_that_was_erased(
    gateway: Gateway, tells: Tells, query: dict[str, str]
) -> None:
    headers = ROOT if query else ADA
    async with listening_to_list(gateway, headers=headers, **query) as first:
        known = first.last_id
    old = new_id()
    gone = await tells.change(old, metadata={"note": "kangaroo"})
    stays = await tells.change(UUID(int=old.int + (2 << 80)))  # begun two milliseconds later
    before = id_time(old) + timedelta(milliseconds=1)
    erasure = {"user_id": "ada", "before": before, "requested_by": "root", "begun_at": before}
    async with listening_to_list(gateway, headers=headers, known=known, **query) as still:
        assert await still.sessions(2) == [gone, stays]
    await gateway.execute(erasures.insert().values(erasure))
    async with listening_to_list(gateway, headers=headers, known=known, **query) as after:
        assert await after.sessions(1) == [stays]


async def test_another_gateway_goes_on_where_one_stopped(broker: str, postgres_url: str, tells: Tells) -> None:
    async with live_gateway(broker, postgres_url) as one, listening_to_list(one) as listener:
        before = await tells.change(new_id())
        assert await listener.sessions(1) == [before]
        known = listener.last_id
    missed = [await tells.change(new_id(), conversation_id=f"c-{number}") for number in range(10)]
    async with live_gateway(broker, postgres_url) as another, listening_to_list(another, known=known) as again:
        assert sorted(await again.sessions(10)) == sorted(missed)
        after = await tells.change(new_id())
        assert await again.sessions(1) == [after]


@pytest.mark.parametrize("query", [{}, {"q": "-persona:other"}], ids=["all", "filter"])
async def test_who_missed_too_much_is_told_to_list_anew(
    gateway: Gateway, tells: Tells, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    monkeypatch.setattr(lists, "MOST_MISSED", 3)
    async with listening_to_list(gateway, **query) as listener, listening_to_list(gateway, **query) as witness:
        known = listener.last_id
        await listener.answer.aclose()
        for _ in range(4):
            await tells.change(new_id(), user_id="bob")
        three = [await tells.change(new_id()) for _ in range(3)]
        assert await witness.sessions(3) == three
        async with listening_to_list(gateway, known=known, **query) as again:
            assert await again.sessions(3) == three
        four = [*three, await tells.change(new_id())]
        assert await witness.sessions(1) == four[3:]
        async with listening_to_list(gateway, known=known, **query) as again:
            reload = await again.expect("reload")
            assert reload.data == {"reason": "too-much"}
            after = await tells.change(new_id())
            assert await again.sessions(1) == [after]
        assert await witness.sessions(1) == [after]
        async with listening_to_list(gateway, known=reload.id, **query) as again:
            assert await again.sessions(1) == [after]


async def test_who_missed_what_is_gone_is_told_to_list_anew(
    broker: str, postgres_url: str, tells: Tells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent.RecentChanges.__init__, "__defaults__", (5, 1_000_000))
    async with live_gateway(broker, postgres_url) as gateway, listening_to_list(gateway) as witness:
        known = witness.last_id
        six = [await tells.change(new_id()) for _ in range(6)]
        assert await witness.sessions(6) == six
        async with listening_to_list(gateway, known=known) as again:
            assert (await again.expect("reload")).data == {"reason": "gone"}


async def test_who_is_ahead_of_what_kafka_tells_is_told_to_list_anew(gateway: Gateway, tells: Tells) -> None:
    ahead = lists.list_id(offset + 5 for offset in gateway.changes.lists.offsets).decode()
    async with listening_to_list(gateway, known=ahead) as again:
        assert (await again.expect("reload")).data == {"reason": "gone"}
        after = await tells.change(new_id())
        assert await again.sessions(1) == [after]


async def test_all_are_told_where_records_are_missing(gateway: Gateway, tells: Tells) -> None:
    async with listening_to_list(gateway) as all_of_it, listening_to_list(gateway, q="attempts:0") as filtered:
        # As if Kafka had had more, and lost it.
        gateway.changes.lists.begin([offset + 10 for offset in gateway.changes.lists.offsets])
        before = await tells.change(new_id())
        await tells.change(new_id(), user_id="bob")
        for listener in (all_of_it, filtered):
            for _ in range(2):
                assert (await listener.expect("reload")).data == {"reason": "gone"}
            assert await listener.sessions(1) == [before]
        after = await tells.change(new_id())
        assert (await all_of_it.sessions(1), await filtered.sessions(1)) == ([after], [after])


async def test_what_is_no_change_is_passed_over(gateway: Gateway, tells: Tells) -> None:
    async with listening_to_list(gateway) as ada:
        await (await tells.producer.send("chat.sessions.v1", b"{}", key=b"c-1"))
        await (await tells.producer.send("chat.sessions.v1", None, key=b"c-1"))
        await (await tells.producer.send("chat.deltas.v1", None, key=b"c-1"))
        after = await tells.change(new_id())
        assert await ada.sessions(1) == [after]


async def test_wrong_questions_are_refused(gateway: Gateway) -> None:
    for query, headers, status, code in [
        ({"q": "nonsense"}, ADA, 400, "invalid-filter"), ({"q": "user:bob"}, ADA, 400, "invalid-filter"),
        ({"limit": "5"}, ADA, 400, "invalid-parameter"), ({"userId": "bob"}, ADA, 403, "admin-only"),
        ({"userId": "*"}, ADA, 403, "admin-only"),
        *(({}, {**ADA, "last-event-id": text}, 400, "invalid-parameter")
          for text in ("nonsense", "AgEA", "AQ", "AQAAAAAAAAAAAA", "x" * 10_000, "AXhQrAJjKQdYgg", "AXhQrAJjKQdYggF")),
    ]:  # fmt: skip
        answer = await gateway.get(LIVE, headers, **query)
        assert (answer.status_code, answer.json()["code"]) == (status, code), query
    head = await gateway.http.head(LIVE, headers=ADA)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")


async def test_a_filter_that_postgresql_cannot_decide_ends_with_a_hint(
    broker: str, postgres_url: str, tells: Tells, postgres_server: EmbeddedPostgres
) -> None:
    name = urlsplit(postgres_url).path[1:]

    async def ask(statement: str) -> None:
        await asyncio.to_thread(postgres_server.run_sql, statement)

    async with (
        live_gateway(broker, postgres_url) as gateway,
        listening_to_list(gateway, q="attempts:0") as filtered,
        listening_to_list(gateway) as all_of_it,
    ):
        known = filtered.last_id
        await ask(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await ask(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
        await ask(f"ALTER DATABASE {name} RENAME TO {name}_away")
        told = await tells.change(new_id())
        assert await all_of_it.sessions(1) == [told]
        assert (await filtered.expect("reconnect")).data == {"reason": "database-away"}
        await filtered.expect_end()
        answer = await gateway.get(LIVE, q="attempts:0")
        assert (answer.status_code, answer.json()["code"]) == (503, "database-away")
        await ask(f"ALTER DATABASE {name}_away RENAME TO {name}")
        await ask(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        async with listening_to_list(gateway, q="attempts:0", known=known) as again:
            assert await again.sessions(1) == [told]
