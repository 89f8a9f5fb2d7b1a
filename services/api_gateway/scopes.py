"""What a token may be used for. No I/O.

A scope never gives a right that the token's user has not: it narrows what the token is good for.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Scope(StrEnum):
    """Words of the claim `scope` (RFC 8693, 4.2: a string, separated by spaces)."""

    MESSAGES_WRITE = "messages:write"
    SESSIONS_READ = "sessions:read"
    SESSIONS_CANCEL = "sessions:cancel"
    SESSIONS_CLEANUP = "sessions:cleanup"
    SESSIONS_BULK = "sessions:bulk"
    STATS_READ = "stats:read"
    PERSONAS_READ = "personas:read"
    PERSONAS_WRITE = "personas:write"
    TEMPLATES_READ = "templates:read"
    TEMPLATES_WRITE = "templates:write"
    AUDIT_READ = "audit:read"
    USERS_READ = "users:read"
    USERS_ERASE = "users:erase"


WHAT_SCOPES_ALLOW: Mapping[Scope, str] = {
    Scope.MESSAGES_WRITE: "send messages, and wait for their replies",
    Scope.SESSIONS_READ: "list and read sessions",
    Scope.SESSIONS_CANCEL: "cancel sessions",
    Scope.SESSIONS_CLEANUP: "time out stale sessions (admins)",
    Scope.SESSIONS_BULK: "cancel and retry many sessions at once (admins)",
    Scope.STATS_READ: "read statistics",
    Scope.PERSONAS_READ: "read personas (admins)",
    Scope.PERSONAS_WRITE: "set up and delete personas (admins)",
    Scope.TEMPLATES_READ: "read templates (admins)",
    Scope.TEMPLATES_WRITE: "set up and delete templates (admins)",
    Scope.AUDIT_READ: "read the audit log (admins)",
    Scope.USERS_READ: "read everything about a user (admins)",
    Scope.USERS_ERASE: "erase a user's data (admins)",
}


class WrongClaim(ValueError):
    """A claim is not what its standard says."""


def service_of(claims: Mapping[str, Any]) -> str | None:
    """Return the service that acts for the token's user, `act.sub` (RFC 8693, 4.1); None where he acts himself.

    Where that service itself acts for another, the outermost `act` counts, as the RFC says. Raises WrongClaim.
    """
    if "act" not in claims:
        return None
    actor = claims["act"]
    if not isinstance(actor, dict) or not isinstance(actor.get("sub"), str):
        raise WrongClaim("`act` must be an object with the `sub` of the service.")
    return str(actor["sub"])


def scopes_of(claims: Mapping[str, Any]) -> frozenset[Scope] | None:
    """Return what the token may be used for; None where that is all that its user may do.

    It is narrowed by `act`, without any scope to nothing, and by any scope of ours. Other words, such as a login's
    `openid profile`, are for others, and narrow nothing. Raises WrongClaim.
    """
    told = claims.get("scope", "")
    if not isinstance(told, str):
        raise WrongClaim("`scope` must be a string, its words separated by spaces.")
    ours = frozenset(scope for scope in Scope if scope in told.split(" "))
    return ours if ours or "act" in claims else None
