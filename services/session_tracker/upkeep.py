"""Keeps the rollups true and small: compares them with the sessions, merges the shards of the past, removes the old.

Every run looks at one recent hour and at one of all hours, both going backwards round and round; one process at a time.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.ids import id_time
from services.contracts.topics import TRACKER_GROUP
from services.database import tables as t
from services.database.audit import ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.partitions import next_month
from services.database.rollups import (
    KEPT,
    MERGED_SHARD,
    USER_PREFIX,
    Granularity,
    bucket_of,
    next_bucket,
    readable_since,
)
from services.runtime.faults import PassingFault
from services.session_tracker.counts import Counts, RollupKey
from services.session_tracker.drift import DRIFT, PARTS, compared_with, parameters, repairs
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.rows import counts_of
from services.session_tracker.store import driver_within, write_counts

logger = logging.getLogger(__name__)

RUN_SECONDS = 15.0
RECENT = timedelta(hours=72)
MERGE_AFTER = timedelta(hours=2)
"""When the shards of a bucket are merged: few of its sessions change later, and make shards that are merged again."""
MOST_CELLS = 5_000
"""Counts repaired at once."""
CHUNK = 5_000
"""Rollups removed in one transaction."""
_LOCK = 0x6368_7270  # "chrp": one upkeep at a time
_HOUR = Granularity.HOUR.length


class Pace(StrEnum):
    """The hours that are gone through: the recent ones often, all slowly."""

    RECENT = "recent"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run found: the sum of the counts by which rollups were wrong, and the hours it looked at."""

    drift: int = 0
    hours: int = 0


def next_hour(position: datetime | None, newest: datetime, oldest: datetime) -> datetime:
    """Return the hour to look at after `position`: the one before, at the end the newest again."""
    if position is None or not oldest < position <= newest:
        return newest
    return position - _HOUR


async def keep_rollups(engine: AsyncEngine, metrics: TrackerMetrics) -> None:
    """Run again and again, for ever; while PostgreSQL is away nothing happens."""
    while True:
        try:
            checked = await run(engine, datetime.now(UTC))
            await remove_old(engine, datetime.now(UTC))
        except PassingFault as fault:
            logger.info("The rollups are not looked after: %s", fault)
        else:
            metrics.rollup_checks.inc(checked.hours)
            metrics.rollup_drift.inc(checked.drift)
        await asyncio.sleep(RUN_SECONDS)


async def run(engine: AsyncEngine, now: datetime) -> Checked:
    """Look at the next hour of each pace, one transaction each; none where another process does, or just did.

    Raises PassingFault where PostgreSQL is not to be had.
    """
    drift = hours = 0
    for pace in Pace:
        with postgres_faults():
            async with engine.begin() as connection:
                # A statement of its own: the next ones see all that the run before committed.
                if not await connection.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                    continue
                hour = await _turn(connection, pace, now)
                if hour is None:
                    continue
                hours += 1
                for granularity, since, until in _stretches(hour, now):
                    drift += await _reconcile(connection, granularity, since, until, now)
                    if granularity is not Granularity.MINUTE and until <= now - MERGE_AFTER:
                        await _merge(connection, granularity, since)
    return Checked(drift, hours)


async def remove_old(engine: AsyncEngine, now: datetime) -> int:
    """Remove the rollups that are no longer kept, in chunks; return how many. Raises PassingFault as run() does.

    What a fold moves at this moment is removed the next time.
    """
    removed = 0
    for granularity, kept in KEPT.items():
        rollup = t.session_rollups.c
        old = (rollup.granularity == granularity, rollup.bucket < bucket_of(now - kept, granularity))
        chunk = _removal(*old, most=CHUNK)
        gone = CHUNK
        while gone == CHUNK:
            with postgres_faults():
                async with engine.begin() as connection:
                    gone = (await connection.execute(chunk)).rowcount
            removed += gone
    return removed


async def _turn(connection: AsyncConnection, pace: Pace, now: datetime) -> datetime | None:
    """Return the hour whose turn it is, and write down that it was; None before the time for the next one has come."""
    checks = t.rollup_checks.c
    row = (await connection.execute(select(checks.position, checks.checked_at).where(checks.pace == pace))).first()
    if row is not None and timedelta() <= now - row.checked_at < timedelta(seconds=RUN_SECONDS / 2):
        return None
    oldest = await _oldest(connection, now)
    if oldest is None:
        return None
    newest = bucket_of(now, Granularity.HOUR)
    if pace is Pace.RECENT:
        oldest = max(oldest, bucket_of(now - RECENT, Granularity.DAY))
    values = {"position": next_hour(row and row.position, newest, oldest), "checked_at": now}
    upsert = insert(t.rollup_checks).values(pace=pace, **values)
    await connection.execute(upsert.on_conflict_do_update(index_elements=[checks.pace], set_=values))
    return values["position"]


async def _oldest(connection: AsyncConnection, now: datetime) -> datetime | None:
    """Return the first day that has both its sessions and its hours; None where there are no sessions."""
    sessions = t.chat_sessions.c.session_id
    first = await connection.scalar(select(sessions).order_by(sessions).limit(1))
    if first is None:
        return None
    dropped = await connection.scalar(select(func.max(t.dropped_months.c.month)))
    oldest = bucket_of(id_time(first), Granularity.DAY)
    for bound in (readable_since(Granularity.HOUR, now), dropped and next_month(dropped)):
        if bound is not None:
            oldest = max(oldest, next_bucket(bound, Granularity.DAY))
    return oldest


def _stretches(hour: datetime, now: datetime) -> list[tuple[Granularity, datetime, datetime]]:
    """Return what is looked at with an hour.

    Its minutes while they are kept, itself, and with the first of a day that day and its week.
    """
    stretches = [(Granularity.HOUR, hour, hour + _HOUR)]
    minutes = readable_since(Granularity.MINUTE, now)
    if minutes is None or hour >= minutes:
        stretches.insert(0, (Granularity.MINUTE, hour, hour + _HOUR))
    if hour == bucket_of(hour, Granularity.DAY):
        starts = {granularity: bucket_of(hour, granularity) for granularity in PARTS}
        stretches += [(granularity, start, start + granularity.length) for granularity, start in starts.items()]
    return stretches


async def _reconcile(
    connection: AsyncConnection, granularity: Granularity, since: datetime, until: datetime, now: datetime
) -> int:
    """Repair the rollups of a range where they are wrong; return by how much they were."""
    wrong, given = DRIFT[granularity], parameters(granularity, since, until, MOST_CELLS)
    cells, of_parts = (await connection.execute(wrong, given)).all(), 0
    if cells and granularity in PARTS:
        # It differs from its parts: they may be what is wrong.
        part = PARTS[granularity]
        for start in _comparable(part, compared_with(granularity, since, until), now):
            of_parts += await _reconcile(connection, part, start, start + part.length, now)
        cells = (await connection.execute(wrong, given)).all()
    drift = sum(int(abs(count)) for *_, count in cells)
    if drift:
        logger.error("Rollups by %s from %s on were wrong by %d and are repaired.", granularity, since, drift)
        await write_counts(await driver_within(connection), repairs(granularity, cells))
        await connection.execute(
            insert(t.audit_log),
            entry(
                ActorKind.SYSTEM,
                TRACKER_GROUP,
                Action.ROLLUPS_REPAIR,
                f"{granularity} {since.isoformat()}",
                Outcome.REPAIRED,
                details={"drift": drift, "cells": len(cells), "scopes": len({cell.scope for cell in cells})},
            ),
        )
    return of_parts + drift


def _comparable(granularity: Granularity, buckets: Sequence[datetime], now: datetime) -> Sequence[datetime]:
    """Return those of the buckets whose own parts are still kept."""
    part = PARTS.get(granularity)
    since = readable_since(part, now) if part else None
    return [bucket for bucket in buckets if since is None or bucket >= since]


async def _merge(connection: AsyncConnection, granularity: Granularity, bucket: datetime) -> None:
    """Make one row of the shards of a bucket: fewer to read.

    Shards that a fold moves at this moment are left alone; one that moves a shard next waits, and makes it anew.
    """
    rollup = t.session_rollups.c
    shards = _removal(
        rollup.granularity == granularity,
        rollup.bucket == bucket,
        rollup.scope < USER_PREFIX,
        rollup.shard != MERGED_SHARD,
    ).returning(*rollup)
    merged: dict[RollupKey, Counts] = {}
    for row in (await connection.execute(shards)).all():
        key = RollupKey(granularity, bucket, row.scope, MERGED_SHARD)
        merged[key] = merged.get(key, Counts()) + counts_of(row)
    await write_counts(await driver_within(connection), merged)


def _removal(*which: ColumnElement[bool], most: int | None = None) -> Delete:
    """Return the removal of these rollups, at most so many, without those that somebody holds.

    A fold may wait for what is removed here; so nothing here waits for a fold, and neither can wait for the other.
    """
    place: ColumnElement[Any] = literal_column("ctid")
    free = select(place).select_from(t.session_rollups).where(*which).limit(most).with_for_update(skip_locked=True)
    return delete(t.session_rollups).where(place == func.any(func.array(free.scalar_subquery())))
