"""Months as partitions in a real PostgreSQL: where rows land, and which months are never made."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ColumnElement, func, insert, literal_column, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts import MessageRole, SessionStatus
from services.contracts.ids import id_time
from services.database.engine import build_engine
from services.database.partitions import (
    PARTITIONED_TABLES,
    DroppedMonth,
    create_partitions,
    first_id,
    next_month,
)
from services.database.tables import chat_sessions, dropped_months, messages, session_events
from tests.patience import PATIENT_SECONDS

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
FIRST_OF_DECEMBER = first_id(DECEMBER)
LAST_OF_NOVEMBER = UUID(int=FIRST_OF_DECEMBER.int - 1)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    made = build_engine(postgres_url, statement_timeout_ms=20_000)
    yield made
    await made.dispose()


def session_row(session_id: UUID, **changes: object) -> dict[str, object]:
    at = id_time(session_id)
    row: dict[str, object] = {
        "id": session_id,
        "session_id": session_id,
        "conversation_id": "conversation",
        "persona_id": "persona",
        "user_id": "user",
        "status": SessionStatus.ACTIVE,
        "started_at": at,
        "last_activity_at": at,
        "version": 1,
    }
    return row | changes


async def insert_session(connection: AsyncConnection, session_id: UUID) -> None:
    at = id_time(session_id)
    await connection.execute(insert(chat_sessions).values(session_row(session_id)))
    await connection.execute(
        insert(messages).values(
            id=uuid4(), chat_session_id=session_id, role=MessageRole.PERSONA, content="x", created_at=at
        )
    )
    await connection.execute(
        insert(session_events).values(
            session_id=session_id, event_id=uuid4(), type="chat.MessageSent.v1", occurred_at=at, recorded_at=at
        )
    )


async def tables_with_month(connection: AsyncConnection) -> list[str]:
    names = await connection.scalars(
        text(
            "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid"
            " WHERE relkind = 'r' AND inhparent = ANY (cast(:parents AS regclass[])) ORDER BY 1"
        ),
        {"parents": list(PARTITIONED_TABLES)},
    )
    return list(names)


async def test_rows_land_in_the_partition_of_their_month(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
        await create_partitions(connection, DECEMBER)
        for session_id in (first_id(NOVEMBER), LAST_OF_NOVEMBER, FIRST_OF_DECEMBER):
            await insert_session(connection, session_id)
        for table in (chat_sessions, messages, session_events):
            place: ColumnElement[str] = literal_column("tableoid::regclass::text")
            rows = await connection.execute(select(place, func.count()).select_from(table).group_by(place))
            assert dict(rows.all()) == {f"{table.name}_2026_11": 2, f"{table.name}_2026_12": 1}
    assert next_month(NOVEMBER) == DECEMBER


async def test_a_month_that_was_not_made_takes_no_row(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
    with pytest.raises(IntegrityError, match="no partition of relation"):
        async with engine.begin() as connection:
            await insert_session(connection, FIRST_OF_DECEMBER)


async def test_a_month_is_made_once(engine: AsyncEngine) -> None:
    for _ in range(2):
        async with engine.begin() as connection:
            await create_partitions(connection, NOVEMBER)
    async with engine.connect() as connection:
        assert sorted(await tables_with_month(connection)) == [f"{table}_2026_11" for table in PARTITIONED_TABLES]


async def test_two_connections_at_once_make_a_month_once(engine: AsyncEngine) -> None:
    async def make() -> None:
        async with engine.begin() as connection:
            await create_partitions(connection, NOVEMBER)
            await create_partitions(connection, DECEMBER)

    async with asyncio.timeout(PATIENT_SECONDS):
        await asyncio.gather(*(make() for _ in range(5)))
    async with engine.connect() as connection:
        assert len(await tables_with_month(connection)) == 2 * len(PARTITIONED_TABLES)


async def test_what_is_made_goes_with_the_transaction(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await create_partitions(connection, NOVEMBER)
        await connection.rollback()
        assert await tables_with_month(connection) == []


async def test_a_dropped_month_and_those_before_it_are_refused(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(dropped_months).values(month=NOVEMBER))
    for month in (NOVEMBER, datetime(2026, 10, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)):
        async with engine.connect() as connection:
            with pytest.raises(DroppedMonth, match=f"{month:%Y-%m} were dropped by retention"):
                await create_partitions(connection, month)
    async with engine.begin() as connection:
        await create_partitions(connection, DECEMBER)


async def test_session_rows_leave_room_for_updates(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
        options = await connection.scalar(
            text("SELECT reloptions FROM pg_class WHERE relname = 'chat_sessions_2026_11'")
        )
    assert options == ["fillfactor=75"]


async def test_the_id_is_the_session_id(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
    with pytest.raises(IntegrityError, match="ck_chat_sessions_id_is_session_id"):
        async with engine.begin() as connection:
            await connection.execute(insert(chat_sessions).values(session_row(LAST_OF_NOVEMBER, id=uuid4())))


async def test_a_session_id_is_unique(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
        await connection.execute(insert(chat_sessions).values(session_row(LAST_OF_NOVEMBER)))
    with pytest.raises(IntegrityError, match="chat_sessions_2026_11_pkey"):
        async with engine.begin() as connection:
            await connection.execute(insert(chat_sessions).values(session_row(LAST_OF_NOVEMBER)))


async def test_a_message_belongs_to_a_session(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
    message = {"id": uuid4(), "chat_session_id": LAST_OF_NOVEMBER, "role": MessageRole.USER, "created_at": NOVEMBER}
    with pytest.raises(IntegrityError, match="fk_messages_chatSessionId"):
        async with engine.begin() as connection:
            await connection.execute(insert(messages).values(message))


async def test_columns_and_enums_have_their_documented_names(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_partitions(connection, NOVEMBER)
        await insert_session(connection, LAST_OF_NOVEMBER)
        row = (
            await connection.execute(
                text(
                    'SELECT chat_sessions."id" = "sessionId", "status"::"ChatSessionStatus"::text, "metadata", '
                    '"attempts", "role"::text, "lastActivityAt" = "startedAt" '
                    'FROM chat_sessions JOIN messages ON "chatSessionId" = "sessionId"'
                )
            )
        ).one()
    assert tuple(row) == (True, "ACTIVE", {}, 0, "persona", True)
