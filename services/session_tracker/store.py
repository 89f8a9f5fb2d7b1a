"""The fold transaction: what a batch of events does to PostgreSQL, all of it or nothing."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.events import ErasureRequested, MessageSent
from services.contracts.topics import GROUP_TOPICS, TRACKER_GROUP
from services.database.driver import Driver
from services.runtime.pseudonyms import Pseudonyms, is_erased
from services.session_tracker import statements as sql
from services.session_tracker.audit import entries_of, write_audit
from services.session_tracker.counts import Counts, RollupKey, deltas
from services.session_tracker.erasures import begin, told_of
from services.session_tracker.faults import postgres_faults
from services.session_tracker.fold import Arrival, Folded, Message, Transition, by_session, fold
from services.session_tracker.lifecycle import Session
from services.session_tracker.rows import columns, history_row, insertable, rollups, session_of, updatable


@dataclass(frozen=True, slots=True)
class Committed:
    """What a fold transaction did."""

    transitions: Sequence[Transition] = ()
    refused: Sequence[Arrival] = ()
    """Events that name another conversation, persona or user than their session's."""
    events: int = 0
    """New events folded, late ones among them."""
    late: int = 0


class SessionStore:
    """Session state in PostgreSQL, as the tracker writes it."""

    def __init__(self, engine: AsyncEngine, pseudonyms: Pseudonyms | None = None) -> None:
        """Name end users in the audit log as `pseudonyms` do; without them all alike."""
        self._engine = engine
        self._pseudonyms = pseudonyms or Pseudonyms(None)

    async def fold(self, arrivals: Sequence[Arrival], progress: Mapping[tuple[str, int], datetime]) -> Committed:
        """Fold the events in one transaction, with the progress that it makes of each (topic, partition).

        Raises PassingFault where PostgreSQL is not to be had, RefusedByPostgres where it refuses the content.
        """
        async with self.transaction() as driver:
            arrivals = await self._told_of_erasures(driver, arrivals)
            new = await _insert_history(driver, arrivals)
            folded = await _fold_sessions(driver, new)
            transitions = [one.transition for one in folded]
            await _write_events(driver, folded)
            await _write_messages(driver, [message for one in folded for message in one.messages])
            await _claim_conversations(driver, new)
            await add_counts(driver, transitions)
            await write_audit(driver, [*entries_of(folded, self._pseudonyms)])
            await _move_progress(driver, progress)
        return Committed(
            transitions=transitions,
            refused=[arrival for one in folded for arrival in one.refused],
            events=len(new),
            late=sum(len(one.late) for one in folded),
        )

    async def begin_erasures(self, requests: Sequence[ErasureRequested]) -> None:
        """Make every later fold keep nothing personal of what the requests are about. Raises as `fold` does."""
        await begin(self._engine, requests)

    async def move_progress(self, progress: Mapping[tuple[str, int], datetime]) -> None:
        """Say up to when each (topic, partition) is folded; never moves back."""
        async with self.transaction() as driver:
            await _move_progress(driver, progress)

    async def folded_up_to(self) -> datetime | None:
        """Return up to when every partition is folded, None where some partition has never been."""
        topics = GROUP_TOPICS[TRACKER_GROUP]
        async with self.transaction() as driver:
            folded: datetime | None = await driver.fetchval(
                sql.FOLDED_UP_TO, [topic.name for topic in topics], sum(topic.partitions for topic in topics)
            )
            return folded

    async def read(self, session_ids: Iterable[UUID]) -> list[Session]:
        """Return these sessions as they stand, without those that do not exist."""
        async with self.transaction() as driver:
            return [session_of(row) for row in await driver.fetch(sql.READ_SESSIONS, list(session_ids))]

    async def _told_of_erasures(self, driver: Driver, arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
        """Return the arrivals, those of erased users as such: no erasure begins before this transaction ends."""
        users = {arrival.event.user_id for arrival in arrivals}
        if not users:
            return arrivals
        rows = await driver.fetch(sql.BEFORES_OF_USERS, list(users))
        if not rows and not any(map(is_erased, users)):
            return arrivals
        return told_of([(row["user_id"], row["before"]) for row in rows], arrivals, self._pseudonyms)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Driver]:
        """Open a transaction on the driver's own connection; errors come out as PassingFault or RefusedByPostgres."""
        with postgres_faults():
            async with self._engine.connect() as connection:
                driver = await _driver_of(connection)
                async with driver.transaction():
                    yield driver


async def _driver_of(connection: AsyncConnection) -> Driver:
    """Return the driver's own connection, one that is open: SQLAlchemy's pool does not see what happens to it."""
    while True:
        driver: Driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
        if not driver.is_closed():
            return driver
        await connection.invalidate()


async def driver_within(connection: AsyncConnection) -> Driver:
    """Return the driver's own connection, in the transaction that the statements before have begun."""
    return (await connection.get_raw_connection()).driver_connection  # type: ignore[return-value]


async def _insert_history(driver: Driver, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Insert every event that the history does not hold yet; return those."""
    unique = {(arrival.event.session_id.int, arrival.event.event_id.int): arrival for arrival in reversed(arrivals)}
    if not unique:
        return []
    rows = [
        history_row(
            arrival.event,
            arrival.event.session_id,
            arrival.event.event_id,
            arrival.recorded_at,
            with_body=arrival.erased_as is None,
        )
        for _, arrival in sorted(unique.items())
    ]
    returned = await driver.fetch(sql.INSERT_HISTORY, *columns(rows))
    if len(returned) == len(unique):
        return list(unique.values())
    return [unique[row[0].int, row[1].int] for row in returned]


async def _fold_sessions(driver: Driver, new: Sequence[Arrival]) -> list[Folded]:
    """Insert sessions as folded from nothing; fold the others onto what stands, under a lock. Return all of them."""
    groups = dict(by_session(new))
    if not groups:
        return []
    standing = await _standing(driver, groups)
    fresh = {session_id: fold(None, arrivals) for session_id, arrivals in groups.items() if session_id not in standing}
    inserted = await _insert_sessions(driver, [folded.session for folded in fresh.values()])
    folded = [fresh[session_id] for session_id in inserted]
    existing = [session_id for session_id in groups if session_id not in inserted]
    if existing:
        locked = map(session_of, await driver.fetch(sql.LOCK_SESSIONS, existing))
        again = [fold(session, groups[session.session_id]) for session in locked]
        await update_sessions(driver, [one.session for one in again if one.changed])
        folded += again
    return folded


async def _standing(driver: Driver, groups: Mapping[UUID, Sequence[Arrival]]) -> set[UUID]:
    """Return sessions that are there for certain, so that nobody folds them from nothing in vain.

    Only those are looked up whose message is not among the events: the others are nearly always new.
    """
    likely = [
        session_id
        for session_id, arrivals in groups.items()
        if not any(type(arrival.event) is MessageSent for arrival in arrivals)
    ]
    return {row[0] for row in await driver.fetch(sql.READ_IDS, likely)} if likely else set()


async def _insert_sessions(driver: Driver, sessions: Sequence[Session]) -> set[UUID]:
    """Insert the sessions that are not there yet; return the ids of those."""
    if not sessions:
        return set()
    rows = [insertable(session) for session in sessions]
    return {row[0] for row in await driver.fetch(sql.INSERT_SESSIONS, *columns(rows))}


async def update_sessions(driver: Driver, sessions: Sequence[Session]) -> None:
    """Write the changing columns of sessions that the caller has locked."""
    if sessions:
        await driver.execute(sql.UPDATE_SESSIONS, *columns([updatable(session) for session in sessions]))


async def _write_events(driver: Driver, folded: Sequence[Folded]) -> None:
    """Mark late events in the history, and take refused ones out of it again."""
    late = [(event.session_id, event.event_id) for one in folded for event in one.late]
    if late:
        await driver.execute(sql.MARK_LATE, *columns(late))
    refused = [(one.event.session_id, one.event.event_id) for each in folded for one in each.refused]
    if refused:
        await driver.execute(sql.DELETE_HISTORY, *columns(refused))


async def _write_messages(driver: Driver, messages: Sequence[Message]) -> None:
    if messages:
        rows = [(m.id, m.session_id, m.role, m.content, m.created_at) for m in messages]
        await driver.execute(sql.INSERT_MESSAGES, *columns(rows))


async def _claim_conversations(driver: Driver, arrivals: Sequence[Arrival]) -> None:
    """Give each conversation of a message to the first user who wrote in it."""
    owners: dict[str, str] = {}
    messages = [arrival for arrival in arrivals if type(arrival.event) is MessageSent]
    for arrival in sorted(messages, key=lambda a: (a.recorded_at, a.event.event_id.int)):
        owners.setdefault(arrival.event.conversation_id, arrival.user_id)
    if owners:
        await driver.execute(sql.CLAIM_CONVERSATIONS, *columns(sorted(owners.items())))


async def add_counts(driver: Driver, transitions: Iterable[Transition]) -> None:
    """Add what the transitions change to the rollups, in key order."""
    await write_counts(driver, deltas(transitions))


async def write_counts(driver: Driver, counts: Mapping[RollupKey, Counts]) -> None:
    """Add the counts to the rollups."""
    if counts:
        await driver.execute(sql.ADD_COUNTS, *columns(rollups(counts)))


async def _move_progress(driver: Driver, progress: Mapping[tuple[str, int], datetime]) -> None:
    if progress:
        rows = [(*partition, moment) for partition, moment in sorted(progress.items())]
        await driver.execute(sql.MOVE_PROGRESS, *columns(rows))
