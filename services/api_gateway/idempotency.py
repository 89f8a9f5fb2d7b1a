"""Idempotency keys: one key of a user is one session, however often its request is repeated."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert

from services.api_gateway.database import Database
from services.api_gateway.problems import Problem
from services.contracts.ids import new_id
from services.database.tables import idempotency_keys

KEPT = timedelta(hours=24)
RESEND_AFTER = timedelta(seconds=5)
"""How long an unpublished request is taken to be still under way."""

_KEYS = idempotency_keys.c


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What makes a request the same one: its user's key, its route and its body."""

    user_id: str
    key: str
    route: str
    body: bytes

    @property
    def body_hash(self) -> bytes:
        """SHA-256 of the body as it was sent."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True, slots=True)
class Ticket:
    """The ids under which a keyed request is published, and whether it is still to be."""

    session_id: UUID
    event_id: UUID
    created_at: datetime
    published: bool


class IdempotencyKeys:
    """The table of keys. Every method raises DatabaseAway while PostgreSQL is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ticket(self, request: KeyedRequest, now: datetime) -> Ticket:
        """Return the ticket of the request, written before it is published.

        Raises Problem 422 for a key that belongs to another request, and 409 for a repeat of one that was sent within
        the last 5 s and is not known to be published. Of several repeats at once after that, one is let through.
        """
        fresh = await self._insert(request, now)
        if fresh is not None:
            return fresh
        async with self._database.statements() as connection:
            mine = _KEYS.user_id == request.user_id, _KEYS.key == request.key
            row = (await connection.execute(select(idempotency_keys).where(*mine))).one_or_none()
            if row is None:
                raise _under_way()
            if (row.route, row.bodyHash) != (request.route, request.body_hash):
                raise Problem(
                    422,
                    "idempotency-key-reused",
                    "This Idempotency-Key belongs to another request; use a new key for a new request.",
                )
            if row.publishedAt is None:
                if now - row.sentAt < RESEND_AFTER:
                    raise _under_way()
                again = (
                    update(idempotency_keys)
                    .where(*mine, _KEYS.sent_at == row.sentAt, _KEYS.published_at.is_(None))
                    .values(sent_at=now)
                )
                if (await connection.execute(again)).rowcount == 0:
                    raise _under_way()
        return Ticket(row.sessionId, row.eventId, row.createdAt, published=row.publishedAt is not None)

    async def published(self, request: KeyedRequest, now: datetime) -> None:
        """Remember that Kafka has acknowledged the request's event."""
        mine = _KEYS.user_id == request.user_id, _KEYS.key == request.key
        async with self._database.statements() as connection:
            await connection.execute(update(idempotency_keys).where(*mine).values(published_at=now))

    async def purge(self, now: datetime) -> int:
        """Delete keys older than a day; return how many."""
        async with self._database.statements() as connection:
            gone = await connection.execute(delete(idempotency_keys).where(_KEYS.created_at < now - KEPT))
        return gone.rowcount

    async def _insert(self, request: KeyedRequest, now: datetime) -> Ticket | None:
        fresh = {
            "route": request.route,
            "body_hash": request.body_hash,
            "session_id": new_id(),
            "event_id": new_id(),
            "created_at": now,
            "sent_at": now,
            "published_at": None,
        }
        statement = insert(idempotency_keys).values(user_id=request.user_id, key=request.key, **fresh)
        statement = statement.on_conflict_do_update(
            index_elements=[_KEYS.user_id, _KEYS.key],
            set_={idempotency_keys.c[name]: value for name, value in fresh.items()},
            where=_KEYS.created_at < now - KEPT,
        )
        async with self._database.statements() as connection:
            row = (await connection.execute(statement.returning(_KEYS.session_id, _KEYS.event_id))).one_or_none()
        return None if row is None else Ticket(row[0], row[1], now, published=False)


def _under_way() -> Problem:
    seconds = RESEND_AFTER.total_seconds()
    return Problem(
        409,
        "request-under-way",
        f"A request with this Idempotency-Key is under way; repeat it in {seconds:.0f} seconds.",
        headers={"retry-after": f"{seconds:.0f}"},
    )
