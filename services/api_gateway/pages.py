"""The statements of lists, each written once for all lists of one form."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    func,
    select,
    true,
    tuple_,
)

from services.api_gateway.filters.sql import Form, condition_of, form_of, values_of
from services.api_gateway.filters.tree import Tree
from services.api_gateway.listing import CAP, NO_RESPONSE, Page, Sort
from services.api_gateway.selection import Selection
from services.database.driver import Statement, compiled
from services.database.tables import chat_sessions

TOTAL = "total"
KEPT_STATEMENTS = 500

# By plain strings: with SQLAlchemy's own kind of names as keys, a session takes 15 times as long to become JSON.
SESSION = [column.label(str(column.name)) for column in chat_sessions.c]

_ID, _USER = chat_sessions.c.session_id, chat_sessions.c.user_id
_LIMIT, _OFFSET = bindparam("limit", type_=Integer), bindparam("offset", type_=Integer)
_AFTER_ID: BindParameter[UUID] = bindparam("after_id", type_=_ID.type)
_AFTER_MS = bindparam("after_ms", type_=BigInteger)


@dataclass(frozen=True, slots=True)
class ListForm:
    """A list without its values."""

    filter: Tree[Form]
    own: bool
    sort: Sort
    after: bool


def form_of_list(selection: Selection, page: Page) -> ListForm:
    """Return the form of a list."""
    return ListForm(form_of(selection.filter), selection.user_id is not None, page.sort, page.after is not None)


def values_of_list(selection: Selection, page: Page, limit: int) -> dict[str, Any]:
    """Return the values of a list, by the names of its statements' parameters."""
    values = {f"v{number}": value for number, value in enumerate(values_of(selection.filter))}
    values |= {"user_id": selection.user_id, "limit": limit, "offset": page.offset}
    if page.after is not None:
        values |= {"after_id": page.after.session_id, "after_ms": page.after.response_ms}
    return values


@lru_cache(KEPT_STATEMENTS)
def counted_page(form: ListForm) -> Statement:
    """Return one page, each row with the capped count; where the page is empty, one row with nothing else."""
    conditions = _conditions(form)
    capped = select(true()).select_from(chat_sessions).where(*conditions).limit(CAP + 1).subquery()
    counted = select(func.count().label(TOTAL)).select_from(capped).subquery()
    rows = _page(form, conditions).subquery()
    session = [column.label(str(column.name)) for column in rows.c]
    statement = select(counted.c[TOTAL], *session).select_from(counted.outerjoin(rows, true()))
    return compiled(statement.order_by(*_order(form.sort, rows.c.sessionId, rows.c.responseMs)))


@lru_cache(KEPT_STATEMENTS)
def page_alone(form: ListForm) -> Statement:
    """Return one page, and not how many sessions there are."""
    return compiled(_page(form, _conditions(form)))


def _conditions(form: ListForm) -> list[ColumnElement[bool]]:
    # Whose sessions they are stands beside the filter, where nothing that it says can reach.
    own = [bindparam("user_id", type_=_USER.type) == _USER] if form.own else []
    return [*own, condition_of(form.filter)]


def _page(form: ListForm, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    session_id, response_ms = _ID, chat_sessions.c.response_ms
    statement = select(*SESSION).where(*conditions).limit(_LIMIT).offset(_OFFSET)
    if form.after:
        match form.sort:
            case Sort.NEWEST:
                statement = statement.where(session_id < _AFTER_ID)
            case Sort.OLDEST:
                statement = statement.where(session_id > _AFTER_ID)
            case Sort.SLOWEST:
                place = tuple_(_time_taken(response_ms), session_id)
                statement = statement.where(place < tuple_(_AFTER_MS, _AFTER_ID))
    return statement.order_by(*_order(form.sort, session_id, response_ms))


def _order(
    sort: Sort, session_id: ColumnElement[Any], response_ms: ColumnElement[Any]
) -> tuple[ColumnElement[Any], ...]:
    match sort:
        case Sort.NEWEST:
            return (session_id.desc(),)
        case Sort.OLDEST:
            return (session_id.asc(),)
        case Sort.SLOWEST:
            return (_time_taken(response_ms).desc(), session_id.desc())


def _time_taken(response_ms: ColumnElement[Any]) -> ColumnElement[int]:
    return func.coalesce(response_ms, NO_RESPONSE)
