"""Counts sessions from the base rows, as the rollups should say."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import asyncpg

from services.database.engine import asyncpg_url
from services.database.rollups import GLOBAL, Granularity, bucket_of, persona_scope, response_bucket, user_scope

Row = tuple[str, str, datetime, str]


async def counted(connection: asyncpg.Connection) -> Mapping[Row, int]:
    """Return the rollups, summed over shards, by granularity, scope, bucket and what is counted; zeros left out."""
    counts: Counter[Row] = Counter()
    for row in await connection.fetch("SELECT * FROM session_rollups"):
        key = row["granularity"], row["scope"], row["bucket"]
        for column in ("active", "completed", "failed", "timeout", "cancelled", "responseMsSum"):
            counts[*key, column] += row[column]
        for kind, count in zip(row["failureKinds"], row["failureCounts"], strict=True):
            counts[*key, f"failure {kind}"] += count
        for bucket, count in zip(row["responseBuckets"], row["responseCounts"], strict=True):
            counts[*key, f"response {bucket}"] += count
    return {key: count for key, count in counts.items() if count}


async def recounted(connection: asyncpg.Connection) -> Mapping[Row, int]:
    """Return what counted() should return, from the sessions themselves."""
    counts: Counter[Row] = Counter()
    for row in await connection.fetch("SELECT * FROM chat_sessions"):
        for granularity in Granularity:
            bucket = bucket_of(row["startedAt"], granularity)
            for scope in (GLOBAL, persona_scope(row["personaId"]), user_scope(row["userId"])):
                if scope.startswith("user:") and (granularity is not Granularity.DAY or row["status"] == "ACTIVE"):
                    continue
                counts[granularity, scope, bucket, row["status"].lower()] += 1
                if row["responseMs"] is not None:
                    counts[granularity, scope, bucket, "responseMsSum"] += row["responseMs"]
                    counts[granularity, scope, bucket, f"response {response_bucket(row['responseMs'])}"] += 1
                if row["failureKind"] is not None:
                    counts[granularity, scope, bucket, "failure " + row["failureKind"]] += 1
    return {key: count for key, count in counts.items() if count}


async def assert_rollups_exact(database_url: str) -> None:
    connection = await asyncpg.connect(asyncpg_url(database_url))
    try:
        assert await counted(connection) == await recounted(connection)
    finally:
        await connection.close()
