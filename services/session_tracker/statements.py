"""The tracker's SQL, compiled once from the declared tables: one statement a step, its rows as arrays.

The texts run on the driver's own connection: SQLAlchemy's execution of many rows costs more than PostgreSQL's.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    literal_column,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert

from services.database import tables as t
from services.database.driver import sql_of as _sql
from services.database.driver import unnested as _rows

SESSION_COLUMNS = tuple(c.key for c in t.chat_sessions.columns)
MUTABLE_COLUMNS = (
    "status",
    "ended_at",
    "last_activity_at",
    "metadata",
    "error_message",
    "failure_kind",
    "attempts",
    "response_ms",
    "version",
    "resumed_from",
    "template_id",
    "deadline_at",
    "template_version",
    "trace_id",
)
HISTORY_COLUMNS = ("session_id", "event_id", "type", "occurred_at", "recorded_at", "body")
MESSAGE_COLUMNS = ("id", "chat_session_id", "role", "content", "created_at")
AUDIT_COLUMNS = ("id", "at", "actor_kind", "actor", "action", "target", "outcome", "details")
ROLLUP_KEY = ("granularity", "bucket", "scope", "shard")
ROLLUP_ARRAYS = ("granularity", "failure_kinds", "failure_counts", "response_buckets", "response_counts")


def _insert(table: Table, keys: Sequence[str]) -> Any:
    rows = _rows(table, keys)
    return insert(table).from_select([table.c[key] for key in keys], select(*rows.c))


_NONE: ColumnElement[int] = literal_column("0")


def _added_up(keys: ColumnElement[Any], counts: ColumnElement[Any], new: Any, picked: str) -> ColumnElement[Any]:
    """Return one of the arrays `keys` and `counts` after what `new` counts by key is added to them."""
    new_keys, new_counts = new[keys.key], new[counts.key]
    both = func.unnest(keys + new_keys, counts + new_counts).table_valued("key", "count").render_derived()
    summed = select(both.c.key, cast(func.sum(both.c.count), BigInteger).label("count")).group_by(both.c.key)
    total = summed.correlate(t.session_rollups).subquery()
    sums = select(func.array_agg(aggregate_order_by(total.c[picked], total.c.key)))
    standing = keys if picked == "key" else counts
    return case(
        (func.cardinality(new_keys) == _NONE, standing),
        (func.cardinality(keys) == _NONE, new[standing.key]),
        else_=sums.scalar_subquery(),
    )


def _new_counts() -> Select[Any]:
    """Return the rows to add, in key order: `$1` names the granularities at which a row is added.

    Arrays come as text, because `unnest` takes arrays of arrays apart.
    """
    c = t.session_rollups.c
    names = [one.key for one in c]
    types = [Text() if one.key in ROLLUP_ARRAYS else one.type for one in c]
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in zip(names, types, strict=True)]
    rows = func.unnest(*arrays).table_valued(*(column(f"n_{name}") for name in names), name="new").render_derived()
    each = func.unnest(cast(rows.c.n_granularity, ARRAY(Text()))).table_valued("granularity").render_derived().lateral()
    bucket = func.date_trunc(each.c.granularity, rows.c.n_bucket, literal_column("'UTC'"))
    rest = [cast(rows.c[f"n_{one.key}"], one.type) if one.key in ROLLUP_ARRAYS else rows.c[f"n_{one.key}"] for one in c]
    ordered = [each.c.granularity, bucket, *rest[2:]]
    return select(*ordered).select_from(rows.join(each, true())).order_by(*(text(str(n)) for n in range(1, 5)))


def _add_counts() -> str:
    c = t.session_rollups.c
    statement = insert(t.session_rollups).from_select([*c], _new_counts())
    sums = [one for one in c if one.key not in (*ROLLUP_KEY, *ROLLUP_ARRAYS)]
    return _sql(
        statement.on_conflict_do_update(
            index_elements=[c[key] for key in ROLLUP_KEY],
            set_={
                **{one: one + statement.excluded[one.key] for one in sums},
                c.failure_kinds: _added_up(c.failure_kinds, c.failure_counts, statement.excluded, "key"),
                c.failure_counts: _added_up(c.failure_kinds, c.failure_counts, statement.excluded, "count"),
                c.response_buckets: _added_up(c.response_buckets, c.response_counts, statement.excluded, "key"),
                c.response_counts: _added_up(c.response_buckets, c.response_counts, statement.excluded, "count"),
            },
        )
    )


def _update_sessions() -> str:
    rows = _rows(t.chat_sessions, ("session_id", *MUTABLE_COLUMNS))
    new: dict[str, ColumnElement[Any]] = {key: rows.c[f"n_{key}"] for key in ("session_id", *MUTABLE_COLUMNS)}
    return _sql(
        update(t.chat_sessions)
        .values({t.chat_sessions.c[key]: new[key] for key in MUTABLE_COLUMNS})
        .where(t.chat_sessions.c.session_id == new["session_id"])
    )


def _history_keys() -> ColumnElement[bool]:
    rows = _rows(t.session_events, ("session_id", "event_id"))
    return tuple_(t.session_events.c.session_id, t.session_events.c.event_id).in_(select(*rows.c))


_IDS = bindparam("ids", type_=ARRAY(t.chat_sessions.c.session_id.type))
_ACTIVE = t.chat_sessions.c.status == literal_column("'ACTIVE'")  # a literal, so that the partial index serves
_sessions = select(*(c.label(c.key) for c in t.chat_sessions.columns))

INSERT_HISTORY = _sql(
    _insert(t.session_events, HISTORY_COLUMNS)
    .on_conflict_do_nothing()
    .returning(t.session_events.c.session_id, t.session_events.c.event_id)
)
INSERT_SESSIONS = _sql(
    _insert(t.chat_sessions, SESSION_COLUMNS).on_conflict_do_nothing().returning(t.chat_sessions.c.session_id)
)
READ_IDS = _sql(select(t.chat_sessions.c.session_id).where(t.chat_sessions.c.session_id == func.any(_IDS)))
READ_SESSIONS = _sql(_sessions.where(t.chat_sessions.c.session_id == func.any(_IDS)))
LOCK_SESSIONS = _sql(
    _sessions.where(t.chat_sessions.c.session_id == func.any(_IDS))
    .order_by(t.chat_sessions.c.session_id)
    .with_for_update()
)
UPDATE_SESSIONS = _update_sessions()
MARK_LATE = _sql(update(t.session_events).values(late=true()).where(_history_keys()))
DELETE_HISTORY = _sql(delete(t.session_events).where(_history_keys()))
INSERT_MESSAGES = _sql(_insert(t.messages, MESSAGE_COLUMNS).on_conflict_do_nothing())
CLAIM_CONVERSATIONS = _sql(_insert(t.conversations, ("conversation_id", "user_id")).on_conflict_do_nothing())
BEFORES_OF_USERS = _sql(
    select(t.erasures.c.user_id.label("user_id"), t.erasures.c.before)
    .where(t.erasures.c.user_id == func.any(bindparam("users", type_=ARRAY(t.erasures.c.user_id.type))))
    .with_for_update(read=True, key_share=True)
)
"""Until the asking transaction ends no erasure begins: FOR KEY SHARE takes a lock that `erasures.begin` waits for, and
PostgreSQL takes it before it looks for rows."""
INSERT_AUDIT = _sql(_insert(t.audit_log, AUDIT_COLUMNS))
ADD_COUNTS = _add_counts()


def _move_progress() -> str:
    statement = _insert(t.fold_progress, ("topic", "partition", "folded_up_to"))
    column_ = t.fold_progress.c.folded_up_to
    return _sql(
        statement.on_conflict_do_update(
            index_elements=[t.fold_progress.c.topic, t.fold_progress.c.partition],
            set_={column_: func.greatest(column_, statement.excluded.folded_up_to)},
        )
    )


MOVE_PROGRESS = _move_progress()

FOLDED_UP_TO = _sql(
    select(func.min(t.fold_progress.c.folded_up_to))
    .where(t.fold_progress.c.topic == func.any(bindparam("topics", type_=ARRAY(t.fold_progress.c.topic.type))))
    .having(func.count() == bindparam("partitions", type_=BigInteger()))
)

_limits = func.unnest(
    bindparam("personas", type_=ARRAY(t.chat_sessions.c.persona_id.type)), bindparam("limits", type_=ARRAY(t.Time))
).table_valued(column("persona", t.chat_sessions.c.persona_id.type), column("before", t.Time), name="limits")
_limits = _limits.render_derived()
_limit = (
    select(_limits.c.before)
    .where(_limits.c.persona == t.chat_sessions.c.persona_id)
    .correlate(t.chat_sessions)
    .scalar_subquery()
)
_STALE = and_(
    t.chat_sessions.c.last_activity_at < bindparam("latest", type_=t.Time),  # what the index is read up to
    t.chat_sessions.c.last_activity_at < func.coalesce(_limit, bindparam("limit_of_others", type_=t.Time)),
)
_BEYOND = tuple_(t.chat_sessions.c.last_activity_at, t.chat_sessions.c.session_id) > tuple_(
    bindparam("after_time", type_=t.Time), bindparam("after_id", type_=t.chat_sessions.c.session_id.type)
)
COUNT_STALE = _sql(select(func.count()).select_from(t.chat_sessions).where(_ACTIVE, _STALE))
LOCK_STALE = _sql(
    _sessions.where(_ACTIVE, _STALE, _BEYOND)
    .order_by(t.chat_sessions.c.last_activity_at, t.chat_sessions.c.session_id)
    .limit(bindparam("chunk"))
    .with_for_update(skip_locked=True)
)
LOCK_OVERDUE = _sql(
    _sessions.where(
        _ACTIVE,
        t.chat_sessions.c.deadline_at <= bindparam("until", type_=t.Time),
        tuple_(t.chat_sessions.c.deadline_at, t.chat_sessions.c.session_id)
        > tuple_(bindparam("after_time", type_=t.Time), bindparam("after_id", type_=t.chat_sessions.c.session_id.type)),
    )
    .order_by(t.chat_sessions.c.deadline_at, t.chat_sessions.c.session_id)
    .limit(bindparam("chunk"))
    .with_for_update(skip_locked=True)
)
_OF_SWEEP = t.sweeps.c.sweep_id == bindparam("id", type_=t.sweeps.c.sweep_id.type)
COUNT_TIMED_OUT = _sql(
    update(t.sweeps).values(timed_out=t.sweeps.c.timed_out + bindparam("ended", type_=BigInteger())).where(_OF_SWEEP)
)
COUNT_FAILED_CHUNK = _sql(
    update(t.sweeps).values(failed_chunks=t.sweeps.c.failed_chunks + literal_column("1")).where(_OF_SWEEP)
)
_CHUNK = t.untold_chunks.c.chunk_id
_CHUNK_ID = bindparam("id", type_=_CHUNK.type)
KEEP_UNTOLD = _sql(
    insert(t.untold_chunks).values(
        chunk_id=_CHUNK_ID, session_ids=bindparam("ids", type_=t.untold_chunks.c.session_ids.type)
    )
)
READ_UNTOLD = _sql(select(_CHUNK, t.untold_chunks.c.session_ids).order_by(_CHUNK))
FORGET_UNTOLD = _sql(delete(t.untold_chunks).where(_CHUNK == _CHUNK_ID))
READ_PERSONA_TIMEOUTS = _sql(
    select(t.personas.c.persona_id, t.personas.c.session_timeout_hours).where(
        t.personas.c.session_timeout_hours.is_not(None)
    )
)
