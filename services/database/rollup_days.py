"""Reading a scope's rollups day by day: their key has its bucket before its scope, so each day is one search."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from services.database.rollups import Granularity
from services.database.tables import session_rollups

_ROLLUP = session_rollups.c
OF_DAYS: ColumnElement[bool] = _ROLLUP.granularity == Granularity.DAY


def days_until(end: Any) -> Select[Any]:
    """Return the query of the days from the first that has any rollup to `end`, a time or what PostgreSQL makes one."""
    first = select(func.min(_ROLLUP.bucket)).where(OF_DAYS).scalar_subquery()
    return select(func.generate_series(first, end, Granularity.DAY.length, type_=_ROLLUP.bucket.type))
