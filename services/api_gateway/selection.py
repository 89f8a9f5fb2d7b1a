"""Which sessions a request is about: whose they are, and what its filter says of them."""

from dataclasses import dataclass
from datetime import datetime

from services.api_gateway.audit import EVERYONE
from services.api_gateway.auth import Caller
from services.api_gateway.filters.bounds import STARTED
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.grammar import MAX_CHARACTERS, parse
from services.api_gateway.filters.meaning import EVERYTHING, FIELDS, USER, Filter, Is, Range, Value, names, understood
from services.api_gateway.filters.tree import And, Leaf
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query
from services.api_gateway.problems import Problem
from services.contracts.session import SessionStatus
from services.database.audit_words import Action

FILTER_NAMES = ("q", "status", "personaId", "conversationId", "userId", "from", "to")


@dataclass(frozen=True, slots=True)
class Selection:
    """The sessions for which `filter` holds, of `user_id` alone (None: of everyone), whatever the filter says."""

    user_id: str | None
    filter: Filter = EVERYTHING


def read_filter(query: Query, caller: Caller) -> Filter:
    """Return what `q` and the plain parameters say together; Problem 400 where one of them means nothing."""
    parts = [
        *equal("status", *query.choices("status", SessionStatus)),
        *equal("persona", query.identifier("personaId")),
        *equal("conversation", query.identifier("conversationId")),
        *_started(*query.time_range()),
    ]
    text = query.text("q", MAX_CHARACTERS)
    if text is not None:
        fields = [field for field in FIELDS if caller.is_admin or field != USER]
        try:
            parts.append(understood(parse(text), fields))
        except InvalidFilter as error:
            raise invalid_filter(error) from error
    return And(tuple(parts))


async def read_selection(
    gate: Gate, query: Query, caller: Caller, action: Action, *, all_by_default: bool
) -> Selection:
    """Return what the caller asks for; Problem 403 where he may not, 400 where it means nothing.

    A user has his own sessions. An admin has those of the user that he names, everyone's with `*` or where his filter
    speaks of users, and without either everyone's or his own.
    """
    wanted = query.identifier("userId")
    await gate.require_own(caller, action, wanted)
    tree = read_filter(query, caller)
    if wanted is None:
        everyone = caller.is_admin and (all_by_default or names(tree, USER))
        return Selection(None if everyone else caller.user_id, tree)
    return Selection(None if wanted == EVERYONE else wanted, tree)


def equal(field: str, *values: Value | None) -> list[Filter]:
    """Return the part of a filter that asks for one of these values, none where there is none."""
    given = tuple(value for value in values if value is not None)
    return [Leaf(Is(field, given))] if given else []


def _started(since: datetime | None, until: datetime | None) -> list[Filter]:
    if since is None and until is None:
        return []
    return [Leaf(Is(STARTED, ranges=(Range(since, until, with_high=False),)))]


def invalid_filter(error: InvalidFilter, code: str = "invalid-filter") -> Problem:
    """The problem of a filter that means nothing, or not here: where, and what could stand there."""
    told: dict[str, object] = {"field": "q", "message": error.explanation}
    where = ""
    if error.position is not None:
        told["position"] = error.position
        where = f" (at position {error.position})"
    if error.allowed:
        told["allowed"] = error.allowed
    allowed = f" Allowed are: {', '.join(error.allowed)}." if error.allowed else ""
    return Problem(400, code, f"q: {error.explanation}{allowed}{where}", members={"errors": [told]})
