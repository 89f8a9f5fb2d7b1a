"""What was decided about dead letters, in PostgreSQL: each decision once, with its entry in the audit log."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, delete, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.commands.letters.selection import Disposition, Place, State
from services.commands.target import CommandError
from services.database.audit import ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.engine import build_engine
from services.database.errors import POSTGRES_ERRORS, first_words
from services.database.tables import audit_log
from services.database.tables import dead_letter_dispositions as table
from services.runtime.dead_letter_tools import StoredDeadLetter
from services.runtime.settings import PostgresSettings

KEPT = timedelta(days=60)
"""Longer than twice what dead-letter topics are kept for: then the letter is gone, too."""


@asynccontextmanager
async def open_dispositions(settings: PostgresSettings) -> AsyncIterator["Dispositions"]:
    """Give the decisions of this database; CommandError where PostgreSQL does not answer."""
    engine = build_engine(settings.database_url.get_secret_value(), pool_size=1)
    try:
        yield Dispositions(engine)
    finally:
        await engine.dispose()


class Dispositions:
    """Every method raises CommandError where PostgreSQL does not answer or refuses."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def every(self) -> Mapping[Place, Disposition]:
        """Return all decisions, by letter."""
        columns = table.c
        with _postgres(), _only_migrated():
            async with self._engine.connect() as connection:
                rows = (await connection.execute(select(table))).mappings().all()
        return {
            (row[columns.topic], row[columns.offset], row[columns.written_at]): Disposition(
                State(row[columns.disposition]), row[columns.decided_by], row[columns.decided_at], row[columns.because]
            )
            for row in rows
        }

    async def claim(self, letter: StoredDeadLetter, by: str) -> bool:
        """Write down that the letter is being replayed; tell whether this was the first to do so.

        A letter that was dropped may still be replayed: then it counts as the first.
        """
        now = datetime.now(UTC)
        values = {"disposition": State.REPLAYING, "decided_by": by, "decided_at": now, "because": None}
        statement = upsert(table).values(**_key(letter), **values)
        dropped = table.c.disposition == State.DROPPED
        statement = statement.on_conflict_do_update(
            index_elements=[table.c.topic, table.c.offset, table.c.written_at], set_=values, where=dropped
        )
        with _postgres(), _only_migrated():
            async with self._engine.begin() as connection:
                await connection.execute(delete(table).where(table.c.decided_at < now - KEPT))
                return (await connection.execute(statement)).rowcount == 1

    @asynccontextmanager
    async def finishing(self, letter: StoredDeadLetter, by: str) -> AsyncIterator[Disposition | None]:
        """Give the claim on a letter, held by nobody else meanwhile; None where the letter is replayed already.

        What the block does is written down as a replay by `by` when it ends without an exception.
        """
        with _postgres():
            async with self._engine.begin() as connection:
                row = await _held(connection, letter)
                if row is None or row.state is not State.REPLAYING:
                    yield None
                    return
                yield row
                await connection.execute(update(table).where(_is(letter)).values(disposition=State.REPLAYED))
                await _audit(connection, letter, Action.DEAD_LETTER_REPLAY, Outcome.REPLAYED, by, None)

    async def drop(self, letter: StoredDeadLetter, by: str, because: str) -> bool:
        """Mark the letter as one that nothing is to be done about; tell whether it was not decided on before."""
        values = {"disposition": State.DROPPED, "decided_by": by, "decided_at": datetime.now(UTC), "because": because}
        statement = upsert(table).values(**_key(letter), **values).on_conflict_do_nothing()
        with _postgres(), _only_migrated():
            async with self._engine.begin() as connection:
                if (await connection.execute(statement)).rowcount == 0:
                    return False
                await _audit(connection, letter, Action.DEAD_LETTER_DROP, Outcome.DROPPED, by, because)
        return True


async def _held(connection: AsyncConnection, letter: StoredDeadLetter) -> Disposition | None:
    columns = table.c
    query = select(columns.disposition, columns.decided_by, columns.decided_at).where(_is(letter)).with_for_update()
    row = (await connection.execute(query)).first()
    return None if row is None else Disposition(State(row.disposition), row.decided_by, row.decided_at)


async def _audit(
    connection: AsyncConnection,
    letter: StoredDeadLetter,
    action: Action,
    outcome: Outcome,
    by: str,
    because: str | None,
) -> None:
    details = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "group": letter.group,
        "reason": letter.reason,
    }
    if because is not None:
        details["because"] = because
    values = entry(ActorKind.ADMIN, by, action, letter.letter_id, outcome, details=details)
    await connection.execute(insert(audit_log), values)


def _key(letter: StoredDeadLetter) -> dict[str, object]:
    topic, offset, written_at = letter.place
    return {"topic": topic, "offset": offset, "written_at": written_at}


def _is(letter: StoredDeadLetter) -> ColumnElement[bool]:
    return tuple_(table.c.topic, table.c.offset, table.c.written_at) == letter.place


@contextmanager
def _postgres() -> Iterator[None]:
    try:
        yield
    except POSTGRES_ERRORS as error:
        raise CommandError(
            f"PostgreSQL, which keeps what was decided, does not answer ({first_words(error)}): check DATABASE_URL."
        ) from error


@contextmanager
def _only_migrated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == "42P01":
            raise CommandError("The database does not know dead letters yet: run `chat-sessions migrate`.") from error
        raise
