"""What an entry of the audit log is, for the services that write it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from services.contracts.ids import new_id
from services.database.audit_words import Action, Outcome

USER_TARGET = "user:"
"""Begins the target of an act that is about an end user."""


class ActorKind(StrEnum):
    """Who acts. End users are named by a keyed hash (services.runtime.pseudonyms), everyone else by name."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"
    SYSTEM = "system"


def entry(
    kind: ActorKind,
    actor: str,
    action: Action,
    target: str,
    outcome: Outcome,
    *,
    address: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the columns of an entry that is written now."""
    return {
        "id": new_id(),
        "at": datetime.now(UTC),
        "actor_kind": kind,
        "actor": actor,
        "action": action,
        "target": target,
        "outcome": outcome,
        "address": address,
        "details": dict(details or {}),
    }
