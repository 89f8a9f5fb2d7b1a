"""Statistics equal a recount of the sessions, for any range and subject."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from services.api_gateway.answer_models import Statistics
from services.api_gateway.statistics import Tally, summary
from services.contracts import FailureKind, SessionStatus, new_id
from services.contracts.ids import id_time
from services.database.partitions import create_partitions, id_at, month_of
from services.database.rollups import GLOBAL, hour_of, persona_scope, response_bucket, user_scope
from services.database.tables import chat_sessions, failure_rollups, response_rollups, session_rollups
from tests.integration.gateway import ADA, ROOT, Gateway, running_gateway

START = datetime(2026, 10, 31, 20, 0, tzinfo=UTC)
"""The sessions of these tests begin in the eight hours after this, so in two months."""
Session = dict[str, Any]


def random_session(dice: random.Random) -> Session:
    # Many at whole hours and their neighbours: where ranges meet.
    offset = dice.choice([dice.randrange(8 * 3_600_000), dice.randrange(9) * 3_600_000 - dice.randrange(2)])
    session_id = UUID(int=id_at(START + timedelta(milliseconds=offset)).int | (new_id().int & ((1 << 80) - 1)))
    status = dice.choice(list(SessionStatus))
    started = id_time(session_id)
    return {
        "id": session_id, "session_id": session_id, "conversation_id": "c", "started_at": started, "version": 1,
        "persona_id": dice.choice(["p1", "p2"]), "user_id": dice.choice(["ada", "bob"]), "status": status,
        "last_activity_at": started,
        "failure_kind": dice.choice(list(FailureKind)).value if status is SessionStatus.FAILED else None,
        "response_ms": dice.randrange(60_000) if status is SessionStatus.COMPLETED else None,
    }  # fmt: skip


def rollups_of(sessions: list[Session], dice: random.Random) -> dict[Any, list[dict[str, Any]]]:
    """The rows that the tracker would have written, spread over shards."""
    counts: dict[tuple[str, datetime, int], Counter[str]] = {}
    failures: Counter[tuple[str, datetime, int, str]] = Counter()
    responses: Counter[tuple[str, datetime, int, int]] = Counter()
    for session in sessions:
        for scope in (GLOBAL, persona_scope(session["persona_id"]), user_scope(session["user_id"])):
            key = (scope, hour_of(session["started_at"]), dice.randrange(-1, 3))
            count = counts.setdefault(key, Counter())
            count[session["status"].lower()] += 1
            if session["failure_kind"] is not None:
                failures[*key, session["failure_kind"]] += 1
            if session["response_ms"] is not None:
                count["response_ms_sum"] += session["response_ms"]
                responses[*key, response_bucket(session["response_ms"])] += 1
    columns = [*(status.lower() for status in SessionStatus), "response_ms_sum"]
    name = ("scope", "bucket", "shard")
    return {
        session_rollups: [
            dict(zip(name, key, strict=True)) | {column: count[column] for column in columns}
            for key, count in counts.items()
        ],
        failure_rollups: [
            dict(zip((*name, "failure_kind"), key, strict=True)) | {"count": count} for key, count in failures.items()
        ],
        response_rollups: [
            dict(zip((*name, "response_bucket"), key, strict=True)) | {"count": count}
            for key, count in responses.items()
        ],
    }


def recounted(sessions: list[Session]) -> dict[str, Any]:
    tally = Tally()
    for session in sessions:
        tally.add_session_group(session["status"], session["failure_kind"], session["response_ms"], 1)
    return summary(tally)


def within(sessions: list[Session], since: datetime | None, until: datetime | None) -> list[Session]:
    return [s for s in sessions if (not since or s["started_at"] >= since) and (not until or s["started_at"] < until)]


@pytest.fixture
async def gateway(broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(broker, postgres_url, rate_limit_reads=0) as running:
        yield running


async def seed(gateway: Gateway, dice: random.Random, number: int) -> list[Session]:
    sessions = [random_session(dice) for _ in range(number)]
    async with gateway.engine.begin() as connection:
        for month in {month_of(session["id"]) for session in sessions}:
            await create_partitions(connection, month)
        await connection.execute(insert(chat_sessions), sessions)
        for table, rows in rollups_of(sessions, dice).items():
            await connection.execute(insert(table), rows)
    return sessions


def moment(dice: random.Random) -> datetime | None:
    """A time in or near the hours of the sessions, often a whole hour or one of a session's own milliseconds."""
    return dice.choice(
        [
            None,
            START + timedelta(hours=dice.randrange(-1, 10)),
            START + timedelta(milliseconds=dice.randrange(8 * 3_600_000)),
            START + timedelta(hours=dice.randrange(9), milliseconds=dice.randrange(-1, 2)),
        ]
    )


async def test_any_range_of_any_subject_is_exact(gateway: Gateway) -> None:
    dice = random.Random(7)
    sessions = await seed(gateway, dice, 1500)
    for _ in range(60):
        since, until = moment(dice), moment(dice)
        persona = dice.choice([None, "p1"])
        headers, user, asked = dice.choice([(ADA, "ada", {}), (ROOT, None, {}), (ROOT, "bob", {"userId": "bob"})])
        query = {"personaId": persona, "from": since and since.isoformat(), "to": until and until.isoformat(), **asked}
        answer = await gateway.get("/api/chat-sessions/stats", headers, **{k: v for k, v in query.items() if v})
        assert answer.status_code == 200
        Statistics.model_validate(answer.json())
        counted = [
            session
            for session in within(sessions, since, until)
            if user in {None, session["user_id"]} and persona in {None, session["persona_id"]}
        ]
        assert answer.json() == recounted(counted), query


@pytest.mark.parametrize(("interval", "step"), [("hour", timedelta(hours=1)), ("day", timedelta(days=1))])
async def test_a_series_adds_up_to_its_range(gateway: Gateway, interval: str, step: timedelta) -> None:
    sessions = await seed(gateway, random.Random(8), 500)
    since, until = START + timedelta(minutes=20), START + timedelta(hours=6, minutes=45)
    query = {"from": since.isoformat(), "to": until.isoformat(), "interval": interval}
    body = (await gateway.get("/api/chat-sessions/stats", ROOT, **query)).json()
    Statistics.model_validate(body)
    inside = within(sessions, since, until)
    assert {name: value for name, value in body.items() if name != "series"} == recounted(inside)
    assert len(body["series"]) == (7 if interval == "hour" else 2)
    for point in body["series"]:
        began = datetime.fromisoformat(point.pop("from"))
        assert point == recounted(within(inside, began, began + step))


async def test_no_sessions_make_empty_statistics(gateway: Gateway) -> None:
    body = (await gateway.get("/api/chat-sessions/stats")).json()
    assert (body["total"], body["active"], body["successRate"], body["failures"]) == (0, 0, 0, {})
    assert body["byStatus"] == {status.value: 0 for status in SessionStatus}
    assert body["responseMs"] == {"average": None, "p50": None, "p95": None, "p99": None}


async def test_wrong_and_forbidden_questions_are_refused(gateway: Gateway) -> None:
    for query, field in [
        ({"interval": "minute", "from": "2026-01-01"}, "interval"),
        ({"interval": "hour"}, "from"),
        ({"interval": "hour", "from": "2026-01-01", "to": "2026-06-01"}, "interval"),
        ({"status": "FAILED"}, "status"),
    ]:
        answer = await gateway.get("/api/chat-sessions/stats", **query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert (await gateway.get("/api/chat-sessions/stats", userId="bob")).status_code == 403
    backwards = await gateway.get("/api/chat-sessions/stats", **{"from": "2026-02-01", "to": "2026-01-01"})
    assert backwards.json()["total"] == 0
