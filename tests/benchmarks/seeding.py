"""Fills a migrated database with sessions of many months by COPY: what benchmarks and plans are read on.

Sessions, messages, events and rollups are consistent with one another, as if the tracker had written them.
"""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice

import asyncpg

from services.contracts.admission import EARLIEST
from services.contracts.session import SessionStatus
from services.database.engine import asyncpg_url, build_engine
from services.database.partitions import create_partitions, next_month
from services.database.rollups import (
    GLOBAL,
    KEPT,
    MERGED_SHARD,
    OF_EVERYONE,
    OF_USERS,
    PERSONA_PREFIX,
    RESPONSE_BOUNDS,
    USER_PREFIX,
    Granularity,
)

SLICE = 50_000
"""Sessions in one COPY of each table."""
_ENDINGS = ("COMPLETED",) * 92 + ("FAILED",) * 5 + ("TIMEOUT",) * 2 + ("CANCELLED",)
_EVENTS = {
    "COMPLETED": "WebhookSucceeded", "FAILED": "WebhookFailed",
    "TIMEOUT": "TimeoutSweep", "CANCELLED": "CancelRequested",
}  # fmt: skip
NULL = "\\N"
REPLY = "This is a reply."
_SESSION_COLUMNS = (
    "id", "conversationId", "personaId", "userId", "sessionId", "status", "startedAt", "endedAt", "lastActivityAt",
    "metadata", "errorMessage", "failureKind", "attempts", "responseMs", "version",
)  # fmt: skip
_MESSAGE_COLUMNS = ("id", "chatSessionId", "role", "content", "createdAt")
_EVENT_COLUMNS = ("sessionId", "eventId", "type", "occurredAt", "recordedAt", "body")


@dataclass(frozen=True, slots=True)
class Seed:
    """What to fill a database with: sessions spread evenly over the time before `until`."""

    sessions: int
    until: datetime
    days: int = 120
    personas: int = 50
    active: bool = False
    """Whether none of them has ended; else all have."""
    rollups: bool = True
    """Whether they are counted, which takes a third of the time."""
    seed: int = 1

    @property
    def users(self) -> int:
        """A user has 100 sessions on average; the first few have many more."""
        return max(20, self.sessions // 100)

    @property
    def busiest(self) -> Sequence[str]:
        """The thousandth of the users that has three in a hundred sessions; the others have 1,600 at most."""
        return [f"user-{number}" for number in range(max(1, self.users // 1_000))]

    def user(self, chance: random.Random) -> str:
        return f"user-{int(self.users * chance.random() ** 2)}"

    def persona(self, chance: random.Random) -> str:
        return f"persona-{int(self.personas * chance.random() ** 2)}"


@dataclass(slots=True)
class _Rows:
    sessions: list[str]
    messages: list[str]
    events: list[str]


async def seed(database_url: str, wanted: Seed) -> None:
    """Fill the database, then VACUUM and ANALYZE it."""
    await _make_months(database_url, wanted)
    connection = await asyncpg.connect(asyncpg_url(database_url))
    try:
        # The rows are right by construction; their foreign keys are not looked up one by one.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("SET maintenance_work_mem = '512MB'; SET work_mem = '256MB'")
        rows = _rows(wanted)
        while part := _sliced(rows):
            await _copy(connection, "chat_sessions", _SESSION_COLUMNS, part.sessions)
            await _copy(connection, "messages", _MESSAGE_COLUMNS, part.messages)
            await _copy(connection, "session_events", _EVENT_COLUMNS, part.events)
        for statement in _rollups(wanted.until) if wanted.rollups else ():
            await connection.execute(statement)
        await connection.execute(
            'INSERT INTO conversations SELECT DISTINCT ON ("conversationId") "conversationId", "userId", "startedAt"'
            ' FROM chat_sessions ORDER BY "conversationId", "sessionId"'
        )
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


async def _make_months(database_url: str, wanted: Seed) -> None:
    engine = build_engine(database_url)
    month = (wanted.until - timedelta(days=wanted.days)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month <= next_month(wanted.until.replace(day=1, hour=0, minute=0, second=0, microsecond=0)):
        async with engine.begin() as connection:
            await create_partitions(connection, month)
        month = next_month(month)
    await engine.dispose()


def _sliced(rows: Iterator[tuple[str, str, str]]) -> _Rows | None:
    part = list(islice(rows, SLICE))
    return _Rows(*(list(lines) for lines in zip(*part, strict=True))) if part else None


def _rows(wanted: Seed) -> Iterator[tuple[str, str, str]]:
    """Yield each session as the lines of COPY's text format: its own, its messages', its events'."""
    chance = random.Random(wanted.seed)
    until_ms, span_ms = int(wanted.until.timestamp() * 1000), wanted.days * 86_400_000
    for number in range(wanted.sessions):
        at = until_ms - span_ms + span_ms * number // wanted.sessions
        took = min(int(chance.lognormvariate(7, 0.6)), until_ms - at)
        low = chance.getrandbits(62) & ~1
        session_id = f"{at:012x}7{number & 0xFFF:03x}{1 << 63 | low:016x}"
        began, ended = _text(at), _text(at + took)
        ending = "ACTIVE" if wanted.active else chance.choice(_ENDINGS)
        text, metadata = (
            f"Hello, this is message {number}.",
            f'{{"userAgent": "a", "ipAddress": "192.0.2.{number & 255}"}}',
        )
        sent = f'{{"message": "{text}", "metadata": {metadata}}}'
        told = f'{{"reply": "{REPLY}"}}'
        user = wanted.user(chance)
        yield (
            _line(
                session_id, f"{user}-c{chance.randrange(20)}", wanted.persona(chance), user, session_id, ending, began,
                NULL if wanted.active else ended, began if wanted.active else ended, metadata,
                "It broke." if ending == "FAILED" else NULL, "http-5xx" if ending == "FAILED" else NULL,
                1, took if ending == "COMPLETED" else NULL, 2,
            ),
            _line(f"{low:032x}", session_id, "user", text, began)
            + (_line(f"{low + 1:032x}", session_id, "persona", REPLY, ended) if ending == "COMPLETED" else ""),
            _line(session_id, f"{low:032x}", "MessageSent", began, began, sent)
            + (_line(session_id, f"{low + 1:032x}", _EVENTS[ending], ended, ended, told) if ending in _EVENTS else ""),
        )  # fmt: skip


def _line(*fields: object) -> str:
    return "\t".join(map(str, fields)) + "\n"


def _text(milliseconds: int) -> str:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}+00"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


async def _copy(connection: asyncpg.Connection, table: str, columns: tuple[str, ...], lines: list[str]) -> None:
    async def source() -> AsyncIterator[bytes]:
        for start in range(0, len(lines), 2_000):
            yield "".join(lines[start : start + 2_000]).encode()

    await connection.copy_to_table(table, source=source(), columns=columns)


def _rollups(until: datetime) -> Iterator[str]:
    """Yield the statements that count the sessions as the fold would have, the shards of the past merged."""
    persona, user = f"'{PERSONA_PREFIX}' || \"personaId\"", f"'{USER_PREFIX}' || \"userId\""
    for granularity in OF_EVERYONE:
        since = until - KEPT[Granularity.MINUTE] if granularity is Granularity.MINUTE else EARLIEST
        for scope in (f"'{GLOBAL}'", persona):
            yield _counted(scope, granularity, f"\"startedAt\" >= '{since.isoformat()}'")
    for granularity in OF_USERS:
        yield _counted(user, granularity, f"status <> '{SessionStatus.ACTIVE}'")


def _counted(scope: str, granularity: Granularity, which: str) -> str:
    base = f"""(SELECT date_trunc('{granularity}', "startedAt", 'UTC') AS bucket, {scope} AS scope, status,
        "responseMs", "failureKind",
        width_bucket("responseMs" - 1, ARRAY{list(RESPONSE_BOUNDS)}::bigint[])::smallint AS response
        FROM chat_sessions WHERE {which}) AS base"""
    statuses = ", ".join(f"count(*) FILTER (WHERE status = '{status}') AS {status.lower()}" for status in SessionStatus)
    names = ", ".join(status.lower() for status in SessionStatus)
    return f"""
        INSERT INTO session_rollups
        SELECT '{granularity}', bucket, scope, {MERGED_SHARD}, {names}, total, coalesce(failed_keys, '{{}}'),
            coalesce(failed_counts, '{{}}'), coalesce(answered_keys, '{{}}'), coalesce(answered_counts, '{{}}')
        FROM (
            SELECT bucket, scope, {statuses}, coalesce(sum("responseMs"), 0) AS total FROM {base} GROUP BY 1, 2
        ) AS counts
        LEFT JOIN ({_arrays('"failureKind"', "failed", base)}) AS failures USING (bucket, scope)
        LEFT JOIN ({_arrays("response", "answered", base)}) AS answers USING (bucket, scope)
    """


def _arrays(key: str, name: str, base: str) -> str:
    return f"""
        SELECT bucket, scope, array_agg(key) AS {name}_keys, array_agg(n) AS {name}_counts
        FROM (
            SELECT bucket, scope, {key} AS key, count(*) AS n FROM {base} WHERE {key} IS NOT NULL GROUP BY 1, 2, 3
        ) AS counted GROUP BY 1, 2
    """
