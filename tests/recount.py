"""Counts sessions from the base rows, as the rollups should say."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import asyncpg

from services.database.engine import asyncpg_url
from services.database.rollups import GLOBAL, hour_of, persona_scope, response_bucket, user_scope

Row = tuple[str, datetime, str]


async def counted(connection: asyncpg.Connection) -> Mapping[Row, int]:
    """Return the rollup tables, summed over shards, by scope, hour and what is counted; zeros left out."""
    counts: Counter[Row] = Counter()
    for row in await connection.fetch("SELECT * FROM session_rollups"):
        for column in ("active", "completed", "failed", "timeout", "cancelled", "responseMsSum"):
            counts[row["scope"], row["bucket"], column] += row[column]
    for row in await connection.fetch("SELECT * FROM failure_rollups"):
        counts[row["scope"], row["bucket"], "failure " + row["failureKind"]] += row["count"]
    for row in await connection.fetch("SELECT * FROM response_rollups"):
        counts[row["scope"], row["bucket"], f"response {row['responseBucket']}"] += row["count"]
    return {key: count for key, count in counts.items() if count}


async def recounted(connection: asyncpg.Connection) -> Mapping[Row, int]:
    """Return what counted() should return, from the sessions themselves."""
    counts: Counter[Row] = Counter()
    for row in await connection.fetch("SELECT * FROM chat_sessions"):
        bucket = hour_of(row["startedAt"])
        for scope in (GLOBAL, persona_scope(row["personaId"]), user_scope(row["userId"])):
            counts[scope, bucket, row["status"].lower()] += 1
            if row["responseMs"] is not None:
                counts[scope, bucket, "responseMsSum"] += row["responseMs"]
                counts[scope, bucket, f"response {response_bucket(row['responseMs'])}"] += 1
            if row["failureKind"] is not None:
                counts[scope, bucket, "failure " + row["failureKind"]] += 1
    return {key: count for key, count in counts.items() if count}


async def assert_rollups_exact(database_url: str) -> None:
    connection = await asyncpg.connect(asyncpg_url(database_url))
    try:
        assert await counted(connection) == await recounted(connection)
    finally:
        await connection.close()
