"""Weeks are made of the days of everyone and of each persona; those of users stay days alone.

Nobody waits, but no tracker may run meanwhile: what it counts then is in a day, and not in its week.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Week by week, so it takes the memory of one. Of hours, because days of 24 are not those of every time zone.
_WEEKS = """
    INSERT INTO session_rollups
    SELECT 'week', week, counted.*
    FROM (SELECT min(bucket) AS first, max(bucket) AS last FROM session_rollups WHERE granularity = 'day') AS days,
    generate_series(date_trunc('week', first, 'UTC'), last, interval '168 hours') AS week,
    LATERAL (
        WITH of_week AS (
            SELECT rollup.*
            FROM generate_series(week, week + interval '144 hours', interval '24 hours') AS day
            JOIN session_rollups AS rollup ON granularity = 'day' AND bucket = day AND scope < 'user:'
        ),
        totals AS (
            SELECT scope, sum(active)::bigint AS active, sum(completed)::bigint AS completed,
                sum(failed)::bigint AS failed, sum(timeout)::bigint AS timeout, sum(cancelled)::bigint AS cancelled,
                sum("responseMsSum")::bigint AS response_ms_sum
            FROM of_week GROUP BY scope
        ),
        failures AS (
            SELECT scope, array_agg(kind ORDER BY kind) AS kinds, array_agg(count ORDER BY kind) AS counts
            FROM (
                SELECT scope, kind, sum(count)::bigint AS count
                FROM of_week, unnest("failureKinds", "failureCounts") AS pair(kind, count) GROUP BY scope, kind
            ) AS sums GROUP BY scope
        ),
        responses AS (
            SELECT scope, array_agg(response ORDER BY response) AS buckets, array_agg(count ORDER BY response) AS counts
            FROM (
                SELECT scope, response, sum(count)::bigint AS count
                FROM of_week, unnest("responseBuckets", "responseCounts") AS pair(response, count)
                GROUP BY scope, response
            ) AS sums GROUP BY scope
        )
        SELECT scope, -2, active, completed, failed, timeout, cancelled, response_ms_sum,
            coalesce(kinds, '{}'), coalesce(failures.counts, '{}'),
            coalesce(buckets, '{}'), coalesce(responses.counts, '{}')
        FROM totals LEFT JOIN failures USING (scope) LEFT JOIN responses USING (scope)
    ) AS counted
"""


def upgrade() -> None:
    downgrade()  # a tracker of this release, had it run before, has written some
    op.execute(_WEEKS)


def downgrade() -> None:
    op.execute("DELETE FROM session_rollups WHERE granularity = 'week'")
