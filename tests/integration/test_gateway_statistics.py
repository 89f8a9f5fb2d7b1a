"""Statistics equal a recount of the sessions, for any range and subject."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import delete

from services.api_gateway import statistics_reads
from services.api_gateway.answer_models import Statistics
from services.api_gateway.statistics import Tally, summary
from services.contracts import FailureKind, SessionStatus, new_id
from services.contracts.ids import id_time
from services.database.partitions import id_at, month_of, record_dropped
from services.database.rollups import Granularity, bucket_of, response_bucket
from services.database.tables import chat_sessions
from services.session_tracker.fold import Transition
from services.session_tracker.lifecycle import Session
from services.session_tracker.months import Months
from services.session_tracker.rows import columns, insertable
from services.session_tracker.statements import INSERT_SESSIONS
from services.session_tracker.store import SessionStore, add_counts
from tests.integration.gateway import ADA, ROOT, Gateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = datetime(2026, 5, 31, 20, 0, tzinfo=UTC)
"""The sessions of these tests begin in the eight hours after this, so in two weeks and two months."""


TERMS = {"personaId": "persona:", "userId": "user:", "from": "startedAt:>=", "to": "startedAt:<"}


def recent_start() -> datetime:
    """A start from which everything lies in the time of which minutes are kept."""
    return bucket_of(datetime.now(UTC), Granularity.HOUR) - timedelta(hours=9)


def random_session(dice: random.Random, start: datetime) -> Session:
    # Many at whole minutes and hours and their neighbours: where ranges meet.
    offset = dice.choice(
        [
            dice.randrange(8 * 3_600_000),
            dice.randrange(9) * 3_600_000 - dice.randrange(2),
            dice.randrange(8 * 60) * 60_000 - dice.randrange(2),
        ]
    )
    session_id = UUID(int=id_at(start + timedelta(milliseconds=offset)).int | (new_id().int & ((1 << 80) - 1)))
    identity = {"conversation_id": "c", "persona_id": dice.choice(["p1", "p2"]), "user_id": dice.choice(["ada", "bob"])}
    status = dice.choice(list(SessionStatus))
    return Session(
        session_id=session_id, **identity, status=status, started_at=id_time(session_id), ended_at=None,
        last_activity_at=id_time(session_id), metadata={}, error_message=None,
        failure_kind=dice.choice(list(FailureKind)) if status is SessionStatus.FAILED else None, attempts=1,
        response_ms=dice.randrange(60_000) if status is SessionStatus.COMPLETED else None, version=1,
        resumed_from=None, template_id=None, deadline_at=None, template_version=None, trace_id=None,
    )  # fmt: skip


def recounted(sessions: list[Session]) -> dict[str, Any]:
    tally = Tally()
    for session in sessions:
        failures = [] if session.failure_kind is None else [(session.failure_kind, 1)]
        responses = [] if session.response_ms is None else [(response_bucket(session.response_ms), 1)]
        by_status = [int(status is session.status) for status in SessionStatus]
        tally.add_rollup(by_status, session.response_ms or 0, failures, responses)
    return summary(tally)


def within(sessions: list[Session], since: datetime | None, until: datetime | None) -> list[Session]:
    return [s for s in sessions if (not since or s.started_at >= since) and (not until or s.started_at < until)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(any_broker, module_postgres_url, rate_limit_reads=0) as gateway:
        yield gateway


async def seed(gateway: Gateway, dice: random.Random, number: int, start: datetime = START) -> list[Session]:
    sessions = sorted((random_session(dice, start) for _ in range(number)), key=lambda one: one.session_id)
    for month in {month_of(session.session_id) for session in sessions}:
        await Months(gateway.engine).ensure(id_at(month))
    async with SessionStore(gateway.engine).transaction() as driver:
        await driver.execute(INSERT_SESSIONS, *columns([insertable(session) for session in sessions]))
        await add_counts(driver, [Transition(session, None, dice.randrange(-1, 3)) for session in sessions])
    return sessions


def moment(dice: random.Random, start: datetime) -> datetime | None:
    """A time in or near the hours of the sessions, often a whole hour or minute or a neighbour of one."""
    return dice.choice(
        [
            None,
            start + timedelta(hours=dice.randrange(-1, 10)),
            start + timedelta(milliseconds=dice.randrange(8 * 3_600_000)),
            start + timedelta(hours=dice.randrange(9), milliseconds=dice.randrange(-1, 2)),
            start + timedelta(minutes=dice.randrange(500), milliseconds=dice.randrange(-1, 2)),
        ]
    )


@pytest.mark.parametrize("recent", [True, False])
async def test_any_range_of_any_subject_is_exact(
    gateway: Gateway, recent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, start = random.Random(7), recent_start() if recent else START
    sessions = await seed(gateway, dice, 1000, start)
    for _ in range(40):
        monkeypatch.setattr(statistics_reads, "FEW_SESSIONS", dice.choice([0, 100, 5_000]))
        since, until = moment(dice, start), moment(dice, start)
        if since and until and since > until:
            since, until = until, since
        persona = dice.choice([None, "p1"])
        headers, user, asked = dice.choice([(ADA, "ada", {}), (ROOT, None, {}), (ROOT, "bob", {"userId": "bob"})])
        query = {"personaId": persona, "from": since and since.isoformat(), "to": until and until.isoformat(), **asked}
        given = {k: v for k, v in query.items() if v}
        if given and dice.random() < 0.5:
            given = {"q": " AND ".join(TERMS[name] + value for name, value in given.items())}
        answer = await gateway.get("/api/chat-sessions/stats", headers, **given)
        assert answer.status_code == 200
        Statistics.model_validate(answer.json())
        counted = [
            session
            for session in within(sessions, since, until)
            if user in {None, session.user_id} and persona in {None, session.persona_id}
        ]
        assert answer.json() == recounted(counted), query


@pytest.mark.parametrize(("user", "few"), [(None, 0), ("ada", 0), ("ada", 5_000)])
@pytest.mark.parametrize("recent", [True, False])
@pytest.mark.parametrize("interval", list(Granularity))
async def test_a_series_adds_up_to_its_range(
    gateway: Gateway, interval: Granularity, recent: bool, user: str | None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_reads, "FEW_SESSIONS", few)
    start = recent_start() if recent else START
    sessions = await seed(gateway, random.Random(8), 500, start)
    since, until = start + timedelta(minutes=20, seconds=10), start + timedelta(hours=6, minutes=45)
    query = {"from": since.isoformat(), "to": until.isoformat(), "interval": interval.value}
    body = (await gateway.get("/api/chat-sessions/stats", ROOT, **query, **({"userId": user} if user else {}))).json()
    Statistics.model_validate(body)
    inside = [session for session in within(sessions, since, until) if user in {None, session.user_id}]
    assert {name: value for name, value in body.items() if name != "series"} == recounted(inside)
    first, last = bucket_of(since, interval), bucket_of(until - timedelta(milliseconds=1), interval)
    assert len(body["series"]) == (last - first) // interval.length + 1
    for point in body["series"]:
        began = datetime.fromisoformat(point.pop("from"))
        assert point == recounted(within(inside, began, began + interval.length))


@pytest.mark.parametrize("recent", [True, False])
async def test_groups_add_up_to_the_whole(gateway: Gateway, recent: bool) -> None:
    start = recent_start() if recent else START
    sessions = await seed(gateway, random.Random(9), 500, start)
    since, until = start + timedelta(minutes=20, seconds=10), start + timedelta(hours=6, minutes=45)
    inside = within(sessions, since, until)
    for headers, mine in [(ROOT, inside), (ADA, [session for session in inside if session.user_id == "ada"])]:

        async def asked(group_by: str, headers: dict[str, str] = headers, **more: str) -> dict[str, Any]:
            query = {"from": since.isoformat(), "to": until.isoformat(), "groupBy": group_by, **more}
            body: dict[str, Any] = (await gateway.get("/api/chat-sessions/stats", headers, **query)).json()
            Statistics.model_validate(body)
            return body

        expected = recounted(mine)
        body = await asked("persona", interval="hour")
        assert {name: body[name] for name in expected} == expected
        assert {group.pop("key"): group for group in body["groups"]} == {
            persona: recounted([session for session in mine if session.persona_id == persona])
            for persona in ("p1", "p2")
        }
        assert sum(point["total"] for point in body["series"]) == expected["total"]
        statuses = [(group["total"], group["key"]) for group in (await asked("status"))["groups"]]
        assert statuses == sorted(statuses, key=lambda pair: (-pair[0], pair[1]))
        assert {key: total for total, key in statuses} == expected["byStatus"]
        kinds = (await asked("failureKind"))["groups"]
        assert {group["key"]: group["total"] for group in kinds} == expected["failures"]


async def test_whole_days_hours_and_minutes_outlive_their_sessions(gateway: Gateway) -> None:
    start = recent_start()
    sessions = await seed(gateway, random.Random(10), 300, start)
    async with gateway.engine.begin() as connection:
        # As retention does: a month with ACTIVE sessions stays.
        await connection.execute(delete(chat_sessions).where(chat_sessions.c.status != SessionStatus.ACTIVE))
        await record_dropped(connection, month_of(sessions[-1].session_id))
    for headers, user, until in [
        (ROOT, None, start + timedelta(hours=3, minutes=17)),
        (ROOT, None, None),
        (ADA, "ada", None),
    ]:
        query = {"to": until.isoformat()} if until else {}
        body = (await gateway.get("/api/chat-sessions/stats", headers, **query)).json()
        assert body == recounted([one for one in within(sessions, None, until) if user in {None, one.user_id}])


async def test_no_sessions_make_empty_statistics(gateway: Gateway) -> None:
    body = (await gateway.get("/api/chat-sessions/stats")).json()
    assert (body["total"], body["active"], body["successRate"], body["failures"]) == (0, 0, 0, {})
    assert body["byStatus"] == {status.value: 0 for status in SessionStatus}
    assert body["responseMs"] == {"average": None, "p50": None, "p95": None, "p99": None}


async def test_only_what_was_counted_by_can_be_asked_for(gateway: Gateway) -> None:
    for text in (
        "status:FAILED", "persona:(p1 OR p2)", "persona:p1 persona:p2", "-persona:p1", "persona:p1 OR persona:p2",
        '"text"', "startedAt:(<2026-01-01 OR >2026-02-01)", "metadata.env:dev",
    ):  # fmt: skip
        answer = await gateway.get("/api/chat-sessions/stats", ROOT, q=text)
        assert (answer.status_code, answer.json()["code"]) == (400, "unsupported-filter"), text
        assert answer.json()["errors"][0]["allowed"] == ["user", "persona", "startedAt"]
    twice = await gateway.get("/api/chat-sessions/stats", ROOT, q="user:ada", userId="bob")
    assert (twice.status_code, twice.json()["code"]) == (400, "unsupported-filter")
    assert (await gateway.get("/api/chat-sessions/stats", q="user:ada")).json()["code"] == "invalid-filter"


async def test_wrong_and_forbidden_questions_are_refused(gateway: Gateway) -> None:
    for query, field in [
        ({"interval": "minute", "from": "2026-01-01"}, "interval"),
        ({"groupBy": "user"}, "groupBy"),
        ({"interval": "hour"}, "from"),
        ({"interval": "hour", "from": "2026-01-01", "to": "2026-06-01"}, "interval"),
        ({"interval": "week", "from": "2026-01-01", "to": "2045-06-01"}, "interval"),
        ({"status": "FAILED"}, "status"),
        ({"from": "2026-02-01", "to": "2026-01-01"}, "to"),
    ]:
        answer = await gateway.get("/api/chat-sessions/stats", **query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    for user in ("bob", "*"):
        assert (await gateway.get("/api/chat-sessions/stats", userId=user)).status_code == 403
