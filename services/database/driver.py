"""SQL for the driver's own connection: SQLAlchemy writes it once, asyncpg runs it, as a prepared statement.

SQLAlchemy's execution of a statement takes several times the CPU that the driver's does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Table, bindparam, column, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql import Executable
from sqlalchemy.sql.selectable import TableValuedAlias

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

Driver: TypeAlias = "Connection[Record] | PoolConnectionProxy[Record]"
"""The driver's own connection, as the statements' texts run on it."""

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


def unnested(table: Table, keys: Sequence[str]) -> TableValuedAlias:
    """Return `unnest($1, $2, …)`: one array parameter a column, in the order of `keys`, each named `n_` and its key."""
    columns = [table.c[key] for key in keys]
    arrays = [bindparam(key, type_=ARRAY(c.type)) for key, c in zip(keys, columns, strict=True)]
    return (
        func.unnest(*arrays).table_valued(*(column(f"n_{c.key}", c.type) for c in columns), name="new").render_derived()
    )
