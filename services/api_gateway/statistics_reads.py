"""The counts behind the statistics: rollups for whole hours, sessions for the rest of a range."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.database import Database
from services.api_gateway.statistics import Span, Tally, plan
from services.contracts.session import SessionStatus
from services.database.partitions import id_at
from services.database.rollups import GLOBAL, persona_scope, user_scope
from services.database.tables import chat_sessions, failure_rollups, response_rollups, session_rollups

_STATUS_COLUMNS = {status: session_rollups.c[status.value.lower()] for status in SessionStatus}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose sessions are counted: everyone's, one user's, one persona's, or one user's with one persona."""

    user_id: str | None
    persona_id: str | None

    @property
    def scope(self) -> str | None:
        """The rollups' scope; None for what is not rolled up."""
        if self.user_id is not None and self.persona_id is not None:
            return None
        if self.user_id is not None:
            return user_scope(self.user_id)
        return GLOBAL if self.persona_id is None else persona_scope(self.persona_id)


async def tallies_by_hour(database: Database, subject: Subject, span: Span) -> dict[datetime, Tally]:
    """Return the exact counts of the subject's sessions that started within the range, by hour, of one moment."""
    hours: defaultdict[datetime, Tally] = defaultdict(Tally)
    planned = plan(span)
    scope = subject.scope
    async with database.snapshot() as connection:
        if scope is None:
            await _count_sessions(connection, subject, span, hours)
            return dict(hours)
        if planned.whole_hours is not None:
            await _sum_rollups(connection, scope, planned.whole_hours, hours)
        for edge in planned.edges:
            await _count_sessions(connection, subject, edge, hours)
    return dict(hours)


async def _sum_rollups(connection: AsyncConnection, scope: str, span: Span, hours: dict[datetime, Tally]) -> None:
    counts = session_rollups.c
    sums = [func.sum(column) for column in (*_STATUS_COLUMNS.values(), counts.response_ms_sum)]
    for hour, *row in await _grouped(connection, session_rollups, scope, span, [], sums):
        for status, count in zip(_STATUS_COLUMNS, row, strict=False):
            hours[hour].by_status[status] += int(count)
        hours[hour].response_ms_sum += int(row[-1])
    kind, bucket = failure_rollups.c.failure_kind, response_rollups.c.response_bucket
    failed = [func.sum(failure_rollups.c.count)]
    for hour, name, count in await _grouped(connection, failure_rollups, scope, span, [kind], failed):
        hours[hour].failures[name] += int(count)
    answered = [func.sum(response_rollups.c.count)]
    for hour, number, count in await _grouped(connection, response_rollups, scope, span, [bucket], answered):
        hours[hour].responses[number] += int(count)


async def _grouped(
    connection: AsyncConnection,
    table: Table,
    scope: str,
    span: Span,
    keys: list[ColumnElement[Any]],
    sums: list[Any],
) -> list[Any]:
    """Return hour, keys and sums of the rollups of a scope, their shards added up."""
    statement = select(table.c.bucket, *keys, *sums).where(table.c.scope == scope).group_by(table.c.bucket, *keys)
    if span.since is not None:
        statement = statement.where(table.c.bucket >= span.since)
    if span.until is not None:
        statement = statement.where(table.c.bucket < span.until)
    return list((await connection.execute(statement)).all())


async def _count_sessions(
    connection: AsyncConnection, subject: Subject, span: Span, hours: dict[datetime, Tally]
) -> None:
    column = chat_sessions.c
    # Grouped by its label: repeated, its parameters would make it another expression.
    hour = func.date_trunc("hour", column.started_at, "UTC").label("hour")
    alike = (column.status, column.failure_kind, column.response_ms)
    statement = select(hour, *alike, func.count()).group_by("hour", *alike)
    if subject.user_id is not None:
        statement = statement.where(column.user_id == subject.user_id)
    if subject.persona_id is not None:
        statement = statement.where(column.persona_id == subject.persona_id)
    if span.since is not None:
        statement = statement.where(column.session_id >= id_at(span.since))
    if span.until is not None:
        statement = statement.where(column.session_id < id_at(span.until))
    for at, status, failure_kind, response_ms, count in (await connection.execute(statement)).all():
        hours[at].add_session_group(status, failure_kind, response_ms, count)
