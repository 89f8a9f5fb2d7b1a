"""Everything that PostgreSQL holds about one user, page by page: no transaction is open while somebody reads."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Select, Table, cast, func, select, tuple_

from services.api_gateway.audit_reads import AuditFilters, read_audit
from services.api_gateway.database import Database
from services.api_gateway.places import read_place
from services.database.rollup_days import OF_DAYS, days_until
from services.database.rollups import Granularity, user_scope
from services.database.tables import (
    chat_sessions,
    conversations,
    erasures,
    idempotency_keys,
    messages,
    session_events,
    session_rollups,
)
from services.runtime.pseudonyms import UNNAMED

Json = dict[str, Any]

PAGE = 200
"""Sessions, or other rows, read at once."""
PAGE_OF_TEXTS = 50
"""Of messages and events, each of which can have a quarter of a megabyte."""

_ROLLUP = session_rollups.c
_COUNTED = ("completed", "failed", "timeout", "cancelled", "response_ms_sum")


@dataclass(frozen=True, slots=True)
class UserData:
    """One user's data. Raises DatabaseAway, between pages too, while PostgreSQL is."""

    database: Database
    user_id: str
    name: str
    """How the audit log names him."""

    async def pages(self) -> AsyncIterator[list[Json]]:
        """Yield things of every `kind`; the last one counts them."""
        told: Counter[str] = Counter()
        async for page in self._pages():
            told.update(line["kind"] for line in page)
            yield page
        yield [{"kind": "end", "counts": dict(told)}]

    async def _pages(self) -> AsyncIterator[list[Json]]:
        yield [{"kind": "user", "userId": self.user_id, "asOf": datetime.now(UTC)}]
        async for page in self._owned("conversation", conversations, conversations.c.conversation_id):
            yield page
        async for page in self._owned("session", chat_sessions, chat_sessions.c.session_id):
            yield page
            ids = [session["sessionId"] for session in page]
            async for part in self._of_sessions("message", messages, messages.c.chat_session_id, messages.c.id, ids):
                yield part
            events = session_events.c
            async for part in self._of_sessions("event", session_events, events.session_id, events.event_id, ids):
                yield part
        yield await self._fetch("day", _days(self.user_id))
        async for page in self._owned("idempotencyKey", idempotency_keys, idempotency_keys.c.key):
            yield page
        async for page in self._owned("erasure", erasures, erasures.c.before):
            yield page
        async for page in self._acts():
            yield page

    async def _owned(self, kind: str, table: Table, key: Column[Any]) -> AsyncIterator[list[Json]]:
        """Yield the rows of a table that are the user's, in the order of a key that is unique among them."""
        mine = select(*_named(table)).where(table.c.user_id == self.user_id)
        async for page in self._paged(kind, mine, [key], PAGE):
            yield page

    async def _of_sessions(
        self, kind: str, table: Table, session_id: Column[UUID], own_id: Column[UUID], ids: Sequence[UUID]
    ) -> AsyncIterator[list[Json]]:
        """Yield the rows of a table that belong to these sessions."""
        theirs = select(*_named(table)).where(session_id.in_(ids))
        async for page in self._paged(kind, theirs, [session_id, own_id], PAGE_OF_TEXTS):
            yield page

    async def _paged(
        self, kind: str, rows: Select[Any], key: Sequence[Column[Any]], size: int
    ) -> AsyncIterator[list[Json]]:
        """Yield the rows by so many, in the order of a unique key that is among their columns."""
        statement = rows.order_by(*key).limit(size)
        page = await self._fetch(kind, statement)
        while page:
            yield page
            after = tuple(page[-1][str(column.name)] for column in key)
            page = await self._fetch(kind, statement.where(tuple_(*key) > after)) if len(page) == size else []

    async def _acts(self) -> AsyncIterator[list[Json]]:
        """Yield the user's own entries in the audit log; none where all users have the same name in it."""
        if self.name == UNNAMED:
            return
        before = None
        while True:
            page = await read_audit(self.database, AuditFilters(actor=self.name), before, PAGE)
            yield [{"kind": "act", **entry} for entry in page["items"]]
            if page["nextCursor"] is None:
                return
            before = read_place(page["nextCursor"])

    async def _fetch(self, kind: str, statement: Select[Any]) -> list[Json]:
        async with self.database.statements() as connection:
            rows = (await connection.execute(statement)).mappings()
            return [{"kind": kind, **row} for row in rows]


def _named(table: Table) -> list[Any]:
    # By plain strings: with SQLAlchemy's own kind of names as keys, rows take 15 times as long to become JSON.
    return [column.label(str(column.name)) for column in table.c if column.key not in {"body_hash", "worker_until"}]


def _days(user_id: str) -> Select[Any]:
    """Return the query of the user's statistics: also of days whose sessions retention has dropped."""
    days = days_until(func.now() + Granularity.DAY.length)
    # A sum of PostgreSQL's is a decimal, which JSON would have as a string.
    sums = [cast(func.sum(_ROLLUP[key]), BigInteger).label(str(_ROLLUP[key].name)) for key in _COUNTED]
    counted = select(_ROLLUP.bucket.label("day"), *sums).where(OF_DAYS, _ROLLUP.bucket.in_(days))
    return counted.where(_ROLLUP.scope == user_scope(user_id)).group_by(_ROLLUP.bucket).order_by(_ROLLUP.bucket)
