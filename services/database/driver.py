"""SQL for the driver's own connection: SQLAlchemy writes it once, asyncpg runs it, as a prepared statement.

SQLAlchemy's execution of a statement takes several times the CPU that the driver's does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql import Executable

_DIALECT = dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Statement:
    """The text of a statement, and its parameters in the order of their numbers."""

    sql: str
    names: tuple[str, ...]
    own: Mapping[str, Any]
    """The values that stand in the statement itself, by name."""

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return what the driver takes beside the text; KeyError for a parameter without a value."""
        known = {**self.own, **values}
        return [known[name] for name in self.names]


def compiled(statement: Executable) -> Statement:
    """Return the statement as the driver runs it. Parameters by name are given their values later."""
    told = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    own = {name: value for name, value in told.params.items() if value is not None}
    return Statement(str(told), tuple(told.positiontup or ()), own)


def sql_of(statement: Executable) -> str:
    """Return the text alone, of a statement that has parameters by name and no others, in order."""
    return compiled(statement).sql
