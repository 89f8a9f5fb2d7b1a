"""What the fold and overdue callbacks write into the audit log, in the transaction that makes it true."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import to_json

from services.contracts.events import CancelRequested, WebhookFailed
from services.contracts.topics import DISPATCHER_GROUP
from services.database.audit import ActorKind, entry
from services.database.audit_words import Action, Outcome
from services.database.driver import Driver
from services.runtime.pseudonyms import Pseudonyms
from services.session_tracker import statements as sql
from services.session_tracker.fold import Folded
from services.session_tracker.rows import columns

Entry = dict[str, Any]


def entries_of(folded: Sequence[Folded], pseudonyms: Pseudonyms) -> Iterator[Entry]:
    """Yield who cancelled what, and whether it was in time; and each webhook call that failed for good."""
    for one in folded:
        for cancel, ended_it in one.cancels:
            yield _cancel(cancel, pseudonyms, Outcome.CANCELLED if ended_it else Outcome.LATE)
        if one.failure is not None:
            yield failed_call(one.failure, DISPATCHER_GROUP)


def failed_call(event: WebhookFailed, told_by: str) -> Entry:
    """Return the entry of a webhook call that ended its session as FAILED."""
    details = {"personaId": event.persona_id, "failureKind": event.failure_kind, "attempt": event.attempt}
    if event.status_code is not None:
        details["statusCode"] = event.status_code
    target = str(event.session_id)
    return entry(ActorKind.SYSTEM, told_by, Action.WEBHOOK_CALL, target, Outcome.FAILED, details=details)


async def write_audit(driver: Driver, entries: Sequence[Entry]) -> None:
    """Add the entries, in the caller's transaction."""
    if entries:
        told = [{**one, "details": to_json(one["details"]).decode()} for one in entries]
        await driver.execute(sql.INSERT_AUDIT, *columns([tuple(one[key] for key in sql.AUDIT_COLUMNS) for one in told]))


def _cancel(cancel: CancelRequested, pseudonyms: Pseudonyms, outcome: Outcome) -> Entry:
    # Only admins cancel what is not their own. The reason stays in the session's history: a user may have written it.
    if cancel.requested_by == cancel.user_id:
        kind, actor = ActorKind.USER, pseudonyms.of(cancel.user_id)
    else:
        kind, actor = ActorKind.ADMIN, cancel.requested_by
    return entry(kind, actor, Action.SESSION_CANCEL, str(cancel.session_id), outcome)
