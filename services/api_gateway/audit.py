"""The gateway's entries in the audit log: administrative and destructive acts, done and refused."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.auth import Caller
from services.api_gateway.database import Database, DatabaseAway
from services.api_gateway.refusals import Refusals, Refused, Repeats
from services.database.audit import USER_TARGET, ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.tables import audit_log
from services.runtime.pseudonyms import Pseudonyms

logger = logging.getLogger(__name__)

EVERYONE = "*"
"""Instead of a user's id: all users."""
PERIOD_SECONDS = 60.0


class AuditLog:
    """Adds entries. End users stand in it by a keyed hash and without their address, everyone else by name."""

    def __init__(self, database: Database, pseudonyms: Pseudonyms) -> None:
        self._database = database
        self._pseudonyms = pseudonyms
        self._refusals = Refusals()

    async def record(
        self,
        connection: AsyncConnection,
        caller: Caller,
        action: Action,
        target: str,
        *,
        outcome: Outcome = Outcome.DONE,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one entry, in the caller's transaction."""
        kind, actor = self._actor(caller)
        told = dict(details or {})
        if kind is ActorKind.SERVICE:
            told["for"] = caller.user_id if caller.is_admin else self.name_of(caller.user_id)
        address = None if kind is ActorKind.USER else caller.address
        values = entry(kind, actor, action, target, outcome, address=address, details=told)
        await connection.execute(insert(audit_log), values)

    async def record_refusal(self, caller: Caller, action: Action, target: str, why: str) -> None:
        """Add an entry for an act that was refused, the first of its actor and action in a minute.

        The others are counted, and told by `run`. While PostgreSQL is away only the process's own log has it.
        """
        kind, actor = self._actor(caller)
        if not self._refusals.is_first(Refused(kind, actor, action)):
            return
        logger.warning(
            "Refused: %s of %r by the %s %r: %s.",
            action,
            target,
            kind,
            actor,
            why,
            extra={"fault": f"{actor} {action}"},
        )
        try:
            async with self._database.statements() as connection:
                await self.record(connection, caller, action, target, outcome=Outcome.REFUSED, details={"why": why})
        except DatabaseAway as error:
            logger.warning("The refusal is not in the audit log: %s", error)

    def target_of(self, user_id: str) -> str:
        """Return how the log names an end user whose sessions are the target; all of them are `*`."""
        return user_id if user_id == EVERYONE else f"{USER_TARGET}{self.name_of(user_id)}"

    def name_of(self, user_id: str) -> str:
        """Return how the log names an end user."""
        return self._pseudonyms.of(user_id)

    async def run(self) -> None:
        """Write, each minute and when cancelled, how many refusals were not written one by one."""
        try:
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                await self.end_period()
        finally:
            await self.end_period()

    async def end_period(self) -> None:
        """Write the counts of this minute; while PostgreSQL is away only the process's own log has them."""
        entries = [_repeated(repeats) for repeats in self._refusals.end_period()]
        if not entries:
            return
        try:
            async with self._database.statements() as connection:
                await connection.execute(insert(audit_log), entries)
        except DatabaseAway as error:
            logger.warning("%d counts of refusals are not in the audit log: %s", len(entries), error)

    def _actor(self, caller: Caller) -> tuple[ActorKind, str]:
        if caller.service is not None:
            return ActorKind.SERVICE, caller.service
        if caller.is_admin:
            return ActorKind.ADMIN, caller.user_id
        return ActorKind.USER, self.name_of(caller.user_id)


def _repeated(repeats: Repeats) -> dict[str, Any]:
    details = {"repeated": repeats.count}
    if repeats.of is None:
        return entry(ActorKind.SYSTEM, "gateway", Action.REFUSALS_COUNT, "others", Outcome.REFUSED, details=details)
    kind, actor, action = repeats.of
    return entry(kind, actor, action, "several", Outcome.REFUSED, details=details)
