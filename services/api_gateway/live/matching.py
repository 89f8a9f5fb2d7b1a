"""Which changes a filter finds: PostgreSQL says it, by the very condition with which it finds sessions.

What is asked are the sessions as they were told, not the rows as they are by now: so the answer is the same whenever
it is asked, and no table is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Text, bindparam, cast, column, func, literal, literal_column, null, or_, select

from services.api_gateway.database import Database
from services.api_gateway.filters.meaning import Filter
from services.api_gateway.filters.sql import Columns, Form, condition_of, form_of, values_of
from services.api_gateway.filters.tree import Tree
from services.api_gateway.live.recent import Told
from services.contracts.session import SessionStatus
from services.database.driver import Statement, compiled
from services.database.tables import chat_sessions

KEPT_STATEMENTS = 200
_WHILE_ACTIVE = ("ended_at", "error_message", "failure_kind", "response_ms")
"""What a session has not before it ends."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a filter says of a change: whether it holds now, and whether it did before the session ended."""

    holds: bool
    held: bool


_NOT = Found(holds=False, held=False)


class Matcher:
    """One filter, asked again and again."""

    def __init__(self, database: Database, tree: Filter) -> None:
        self._database = database
        self._statement = _statement(form_of(tree))
        self._values = {f"v{number}": value for number, value in enumerate(values_of(tree))}

    async def find(self, changes: Sequence[Told]) -> list[Found]:
        """Return what the filter says of each change; raise DatabaseAway while PostgreSQL is."""
        sessions = b"[%s]" % b",".join(told.row for told in changes)
        rows = await self._database.fetch(self._statement, sessions=sessions.decode(), **self._values)
        said = {row["ordinality"]: row for row in rows}
        return [_found(told, said[number]) if number in said else _NOT for number, told in enumerate(changes, start=1)]


def _found(told: Told, said: Any) -> Found:
    has_just_ended = told.status.ended and told.before is SessionStatus.ACTIVE
    return Found(holds=said["holds"], held=has_just_ended and said["held"])


@lru_cache(KEPT_STATEMENTS)
def _statement(form: Tree[Form]) -> Statement:
    sessions = cast(bindparam("sessions", type_=Text), JSON)
    rows = func.json_populate_recordset(literal_column(f"NULL::{chat_sessions.name}"), sessions).table_valued(
        *(column(one.name, one.type) for one in chat_sessions.c), with_ordinality="ordinality", name="told"
    )
    now: Columns = {name: rows.c[one.name] for name, one in chat_sessions.c.items()}
    gone = {name: cast(null(), now[name].type) for name in _WHILE_ACTIVE}
    before = {**now, **gone, "status": literal(SessionStatus.ACTIVE, now["status"].type)}
    holds, held = (func.coalesce(condition_of(form, columns), False) for columns in (now, before))
    found = select(rows.c.ordinality, holds.label("holds"), held.label("held"))
    return compiled(found.where(or_(holds, held)))
