"""Idempotency keys: one key of a user is one session, or one sweep, however often its request is repeated."""

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy import BindParameter, ColumnElement, Delete, Row, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.database import Database, DatabaseAway
from services.api_gateway.gathering import Gathered
from services.api_gateway.parameters import identifier
from services.api_gateway.problems import Problem
from services.database.driver import Statement, compiled, unnested
from services.database.tables import idempotency_keys

logger = logging.getLogger(__name__)

KEPT = timedelta(hours=24)
RESEND_AFTER = timedelta(seconds=5)
"""How long an unpublished request is taken to be still under way."""
PURGED_AT_ONCE = 5_000
"""Keys deleted by one statement: well within the time that a statement may take."""

MARK_SECONDS = 0.02
"""How long what was published gathers before it is marked so."""

_KEYS = idempotency_keys.c
_Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What makes a request the same one: its user's key, its route and its body."""

    place: _Place
    """Its user and its key: what no two requests share."""
    route: str
    body: bytes

    @property
    def body_hash(self) -> bytes:
        """SHA-256 of the body as it was sent."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True, slots=True)
class Ticket:
    """The ids under which a keyed request is published, and whether it is still to be.

    What opens no session has no use for `session_id`.
    """

    session_id: UUID
    event_id: UUID
    created_at: datetime
    published: bool = False


_Proposed = tuple[KeyedRequest, Ticket]


def keyed_request(request: Request, user_id: str, body: bytes) -> KeyedRequest | None:
    """Return the request by the key in its header, None where it has none; Problem 400 for one that is no key."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    route = f"{request.method} {request.scope['path']}"
    return KeyedRequest((user_id, identifier("Idempotency-Key", key)), route, body)


class IdempotencyKeys:
    """The table of keys. Every method raises DatabaseAway while PostgreSQL is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._fresh = Gathered(self._insert)
        self._unmarked: dict[_Place, datetime] = {}
        self._due = asyncio.Event()

    async def ticket(self, request: KeyedRequest, proposed: Ticket) -> Ticket:
        """Return the ticket of the request, written before it is published: `proposed` itself where it comes first.

        Raises Problem 422 for a key that belongs to another request, and 409 for a repeat of one that was sent within
        the last 5 s and is not known to be published. Of several repeats at once after that, one is let through.
        """
        if await self._fresh.do((request, proposed)):
            return proposed
        # Asked before the row is read, too: what is marked while it is read was not yet so in the row.
        acknowledged = request.place in self._unmarked
        async with self._database.statements() as connection:
            row = await _standing(connection, request)
            published = acknowledged or row.publishedAt is not None or request.place in self._unmarked
            if not published:
                await _send_again(connection, request, row.sentAt, proposed.created_at)
        return Ticket(row.sessionId, row.eventId, row.createdAt, published=published)

    def published(self, request: KeyedRequest, now: datetime) -> None:
        """Remember that Kafka has acknowledged the request's event: here at once, in PostgreSQL a moment later.

        Where that moment is missed, a repeat sends the identical event again, which changes nothing.
        """
        self._unmarked[request.place] = now
        self._due.set()

    async def run(self) -> None:
        """Mark what was published, many at a time and the last when cancelled; for as long as the gateway runs."""
        try:
            while True:
                await self._due.wait()
                await asyncio.sleep(MARK_SECONDS)
                await self._mark()
        finally:
            await self._mark()

    async def purge(self, now: datetime) -> int:
        """Delete keys older than a day, the oldest first and some at a time; return how many."""
        total, gone = 0, PURGED_AT_ONCE
        while gone == PURGED_AT_ONCE:
            async with self._database.statements() as connection:
                gone = (await connection.execute(_PURGE, {"before": now - KEPT})).rowcount
            total += gone
        return total

    async def forget(self, user_id: str, before: datetime) -> None:
        """Delete the keys of a user that were made before a time: their repeats are new requests then."""
        async with self._database.statements() as connection:
            await connection.execute(
                delete(idempotency_keys).where(_KEYS.user_id == user_id, _KEYS.created_at < before)
            )

    async def _insert(self, requests: Sequence[_Proposed]) -> Sequence[bool]:
        """Write the keys that are new, or have expired; tell the first request with each of these that it is."""
        rows: dict[_Place, tuple[Any, ...]] = {}
        for request, its in requests:
            place = request.place
            if place not in rows:
                rows[place] = *place, request.route, request.body_hash, its.session_id, its.event_id, its.created_at
        fresh = set(map(tuple, await self._database.fetch(_INSERT, **_arrays(_INSERTED, rows.values()))))
        return [_taken(fresh, request.place) for request, _ in requests]

    async def _mark(self) -> None:
        self._due.clear()
        marked = dict(self._unmarked)
        if not marked:
            return
        try:
            await self._database.fetch(_MARK, **_arrays(_MARKED, [(*place, now) for place, now in marked.items()]))
        except DatabaseAway as error:
            logger.warning("%d published requests are not marked so: %s", len(marked), error)
        for place, now in marked.items():
            if self._unmarked[place] == now:
                del self._unmarked[place]


async def _standing(connection: AsyncConnection, request: KeyedRequest) -> Row[Any]:
    """Return the row of a repeated request; Problem 422 where the key is another's, 409 where it has just gone."""
    row = (await connection.execute(select(idempotency_keys).where(*_mine(request)))).one_or_none()
    if row is None:
        raise _under_way()
    if (row.route, row.bodyHash) != (request.route, request.body_hash):
        raise Problem(
            422,
            "idempotency-key-reused",
            "This Idempotency-Key belongs to another request; use a new key for a new request.",
        )
    return row


async def _send_again(connection: AsyncConnection, request: KeyedRequest, sent_at: datetime, now: datetime) -> None:
    """Note that the request is sent again; Problem 409 unless it was last sent long enough ago, and by nobody since."""
    if now - sent_at < RESEND_AFTER:
        raise _under_way()
    unchanged = *_mine(request), _KEYS.sent_at == sent_at, _KEYS.published_at.is_(None)
    if (await connection.execute(update(idempotency_keys).where(*unchanged).values(sent_at=now))).rowcount == 0:
        raise _under_way()


def _mine(request: KeyedRequest) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    user_id, key = request.place
    return _KEYS.user_id == user_id, _KEYS.key == key


async def asked_at(connection: AsyncConnection, request: KeyedRequest, now: datetime) -> datetime | None:
    """Return when a keyed request came first, None for one that comes first now."""
    kept = *_mine(request), _KEYS.created_at >= now - KEPT
    return await connection.scalar(select(_KEYS.created_at).where(*kept))


def _taken(places: set[_Place], place: _Place) -> bool:
    if place not in places:
        return False
    places.remove(place)
    return True


_INSERTED = ("user_id", "key", "route", "body_hash", "session_id", "event_id", "created_at")
_MARKED = ("user_id", "key", "published_at")


def _arrays(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    # In the order of the keys, so that no two gateways wait for each other.
    return dict(zip(names, zip(*sorted(rows), strict=True), strict=True))


def _insert_or_replace_expired() -> Statement:
    """Return the statement that writes new keys, and those over expired ones; it gives the places of these."""
    new = unnested(idempotency_keys, _INSERTED)
    columns = [*(_KEYS[name] for name in _INSERTED), _KEYS.sent_at]
    statement = insert(idempotency_keys).from_select(columns, select(*new.c, new.c.n_created_at))
    replaced = [column for column in idempotency_keys.c if not column.primary_key]
    statement = statement.on_conflict_do_update(
        index_elements=[_KEYS.user_id, _KEYS.key],
        set_={column: statement.excluded[column.key] for column in replaced},
        where=_KEYS.created_at < statement.excluded.created_at - KEPT,
    )
    return compiled(statement.returning(_KEYS.user_id, _KEYS.key))


def _mark_published() -> Statement:
    new = unnested(idempotency_keys, _MARKED)
    its_own = _KEYS.user_id == new.c.n_user_id, _KEYS.key == new.c.n_key
    return compiled(update(idempotency_keys).values(published_at=new.c.n_published_at).where(*its_own))


def _purge() -> Delete:
    """Return the statement that deletes the oldest keys; those that another gateway deletes are left to it."""
    before: BindParameter[datetime] = bindparam("before", type_=_KEYS.created_at.type)
    oldest = (
        select(_KEYS.user_id, _KEYS.key)
        .where(_KEYS.created_at < before)
        .order_by(_KEYS.created_at)
        .limit(PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return delete(idempotency_keys).where(tuple_(_KEYS.user_id, _KEYS.key).in_(oldest))


_INSERT = _insert_or_replace_expired()
_PURGE = _purge()
_MARK = _mark_published()


def _under_way() -> Problem:
    seconds = RESEND_AFTER.total_seconds()
    return Problem(
        409,
        "request-under-way",
        f"A request with this Idempotency-Key is under way; repeat it in {seconds:.0f} seconds.",
        headers={"retry-after": f"{seconds:.0f}"},
    )
