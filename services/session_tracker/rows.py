"""Sessions as the statements' rows, and back."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from asyncpg import Record
from pydantic_core import to_json
from sqlalchemy import RowMapping

from services.contracts.events import SessionEvent
from services.contracts.session import FailureKind, SessionStatus
from services.session_tracker import statements as sql
from services.session_tracker.counts import STATUSES, Counts, RollupKey
from services.session_tracker.lifecycle import LifecycleEvent, Session

_COMMON = set(SessionEvent.model_fields)
_row_of = attrgetter("session_id", *sql.MUTABLE_COLUMNS)
_whole_row_of = attrgetter(*(key if key != "id" else "session_id" for key in sql.SESSION_COLUMNS))
_METADATA = sql.SESSION_COLUMNS.index("metadata")
_MUTABLE_METADATA = sql.MUTABLE_COLUMNS.index("metadata") + 1


def session_of(row: Record | RowMapping) -> Session:
    """Return the session that a row of READ_SESSIONS, LOCK_SESSIONS or LOCK_STALE holds."""
    return Session(
        session_id=UUID(bytes=row["session_id"].bytes),
        conversation_id=row["conversation_id"],
        persona_id=row["persona_id"],
        user_id=row["user_id"],
        status=SessionStatus(row["status"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        last_activity_at=row["last_activity_at"],
        metadata=row["metadata"],  # SQLAlchemy has set a codec for JSONB on its connections
        error_message=row["error_message"],
        failure_kind=FailureKind(row["failure_kind"]) if row["failure_kind"] else None,
        attempts=row["attempts"],
        response_ms=row["response_ms"],
        version=row["version"],
        resumed_from=row["resumed_from"],
        template_id=row["template_id"],
        deadline_at=row["deadline_at"],
        template_version=row["template_version"],
        trace_id=row["trace_id"],
    )


def insertable(session: Session) -> list[Any]:
    """Return the session as a row of INSERT_SESSIONS."""
    row = list(_whole_row_of(session))
    row[_METADATA] = to_json(session.metadata).decode()
    return row


def updatable(session: Session) -> list[Any]:
    """Return the session as a row of UPDATE_SESSIONS."""
    row = list(_row_of(session))
    row[_MUTABLE_METADATA] = to_json(session.metadata).decode()
    return row


def history_row(
    event: LifecycleEvent, session_id: UUID, event_id: UUID, recorded_at: datetime, *, with_body: bool = True
) -> tuple[Any, ...]:
    """Return the event as a row of INSERT_HISTORY: its body holds what does not stand in the session or the row."""
    body = event.model_dump_json(by_alias=True, exclude_none=True, exclude=_COMMON) if with_body else None
    return session_id, event_id, type(event).__name__, event.occurred_at, recorded_at, body


def rollups(counts: Mapping[RollupKey, Counts]) -> list[list[Any]]:
    """Return the counts as rows of ADD_COUNTS: one where the same counts are added at several granularities."""
    same: dict[int, list[RollupKey]] = {}
    for key, one in counts.items():
        same.setdefault(id(one), []).append(key)
    return [_rollup(keys, counts[keys[0]]) for keys in same.values()]


def counts_of(rollup: Any) -> Counts:
    """Return what a row of the rollups holds, its columns by their names in Python."""
    return Counts(
        [getattr(rollup, status.lower()) for status in STATUSES],
        rollup.response_ms_sum,
        dict(zip(rollup.failure_kinds, rollup.failure_counts, strict=True)),
        dict(zip(rollup.response_buckets, rollup.response_counts, strict=True)),
    )


def _rollup(keys: Sequence[RollupKey], counts: Counts) -> list[Any]:
    return [
        _array(key.granularity for key in keys),
        max(key.bucket for key in keys),
        keys[0].scope,
        keys[0].shard,
        *counts.sessions,
        counts.response_ms_sum,
        _array(counts.failures),
        _array(counts.failures.values()),
        _array(counts.responses),
        _array(counts.responses.values()),
    ]


def _array(values: Iterable[object]) -> str:
    """Return the text of a PostgreSQL array of numbers or plain words."""
    return "{" + ",".join(map(str, values)) + "}"


def columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the rows as the statements take them: an array a column."""
    return [list(column) for column in zip(*rows, strict=True)]
