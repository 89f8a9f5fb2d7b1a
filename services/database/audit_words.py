"""The words of the audit log: every act that it knows, and what can become of one."""

from collections.abc import Mapping
from enum import StrEnum


class Action(StrEnum):
    """What was done or refused: `what.verb`. Entries keep the name that they were written with; see `names_of`."""

    MESSAGE_SEND = "message.send"
    SESSION_LIST = "session.list"
    SESSION_GET = "session.get"
    SESSION_LIVE = "session.live"
    SESSION_EXPORT = "session.export"
    SESSION_CANCEL = "session.cancel"
    SESSION_RETRY = "session.retry"
    STATS_READ = "stats.read"
    CLEANUP_START = "cleanup.start"
    CLEANUP_READ = "cleanup.read"
    BULK_START = "bulk.start"
    BULK_READ = "bulk.read"
    BULK_CANCEL = "bulk.cancel"
    PERSONA_LIST = "persona.list"
    PERSONA_GET = "persona.get"
    PERSONA_PUT = "persona.put"
    PERSONA_DELETE = "persona.delete"
    PERSONA_PAUSE = "persona.pause"
    PERSONA_RESUME = "persona.resume"
    PERSONA_TEST = "persona.test"
    TEMPLATE_LIST = "template.list"
    TEMPLATE_GET = "template.get"
    TEMPLATE_PUT = "template.put"
    TEMPLATE_DELETE = "template.delete"
    USER_EXPORT = "user.export"
    USER_ERASE = "user.erase"
    ERASURE_READ = "erasure.read"
    AUDIT_READ = "audit.read"
    REFUSALS_COUNT = "refusals.count"
    WEBHOOK_CALL = "webhook.call"
    SWEEP_RUN = "sweep.run"
    SWEEP_DRY_RUN = "sweep.dry-run"
    RETENTION_DROP = "retention.drop"
    ROLLUPS_REPAIR = "rollups.repair"
    DEAD_LETTER_REPLAY = "dead-letter.replay"
    DEAD_LETTER_DROP = "dead-letter.drop"


WHAT_ACTIONS_DO: Mapping[Action, str] = {
    Action.MESSAGE_SEND: "send messages",
    Action.SESSION_LIST: "list sessions",
    Action.SESSION_GET: "read a session",
    Action.SESSION_LIVE: "watch sessions",
    Action.SESSION_EXPORT: "export sessions",
    Action.SESSION_CANCEL: "cancel a session",
    Action.SESSION_RETRY: "send a session's message again",
    Action.STATS_READ: "read statistics",
    Action.CLEANUP_START: "time out inactive sessions",
    Action.CLEANUP_READ: "look at a cleanup",
    Action.BULK_START: "cancel or retry many sessions at once",
    Action.BULK_READ: "look at a bulk job",
    Action.BULK_CANCEL: "end a bulk job",
    Action.PERSONA_LIST: "list personas",
    Action.PERSONA_GET: "read a persona",
    Action.PERSONA_PUT: "make or replace a persona",
    Action.PERSONA_DELETE: "delete a persona",
    Action.PERSONA_PAUSE: "pause a persona",
    Action.PERSONA_RESUME: "resume a persona",
    Action.PERSONA_TEST: "try a persona",
    Action.TEMPLATE_LIST: "list templates",
    Action.TEMPLATE_GET: "read a template",
    Action.TEMPLATE_PUT: "make or replace a template",
    Action.TEMPLATE_DELETE: "delete a template",
    Action.USER_EXPORT: "export a user's data",
    Action.USER_ERASE: "erase a user's data",
    Action.ERASURE_READ: "look at an erasure",
    Action.AUDIT_READ: "read the audit log",
    Action.REFUSALS_COUNT: "count the refusals that were too many for entries of their own",
    Action.WEBHOOK_CALL: "call a webhook that failed for good",
    Action.SWEEP_RUN: "end a sweep",
    Action.SWEEP_DRY_RUN: "end a sweep that changes nothing",
    Action.RETENTION_DROP: "drop a whole month",
    Action.ROLLUPS_REPAIR: "repair statistics",
    Action.DEAD_LETTER_REPLAY: "publish a dead letter again",
    Action.DEAD_LETTER_DROP: "set a dead letter aside",
}
"""Each act in plain words, as they follow "may"."""


class Outcome(StrEnum):
    """What became of an act."""

    DONE = "done"
    ASKED = "asked"
    """Of what goes through Kafka: the tracker writes what became of it."""
    REFUSED = "refused"
    """The details say why."""
    CANCELLED = "cancelled"
    LATE = "late"
    """Of a cancel: the session had ended before."""
    FAILED = "failed"
    FINISHED = "finished"
    ERASED = "erased"
    DROPPED = "dropped"
    REPAIRED = "repaired"
    REPLAYED = "replayed"


_OF_SESSIONS_READ = (Action.SESSION_LIST, Action.SESSION_GET, Action.SESSION_LIVE, Action.SESSION_EXPORT)
_FORMER_NAMES: Mapping[Action, tuple[str, ...]] = {
    # Refusals had the name of the scope that the token lacked.
    **dict.fromkeys(_OF_SESSIONS_READ, ("sessions:read",)),
    Action.MESSAGE_SEND: ("messages:write",),
    Action.SESSION_RETRY: ("messages:write",),
    Action.SESSION_CANCEL: ("sessions:cancel",),
    Action.STATS_READ: ("stats:read",),
    Action.CLEANUP_START: ("cleanup",),
    Action.BULK_START: ("sessions.bulk",),
    Action.BULK_READ: ("sessions.bulk.read",),
    Action.BULK_CANCEL: ("sessions.bulk.cancel",),
    Action.ERASURE_READ: ("user.erase.read",),
    Action.REFUSALS_COUNT: ("refusals",),
}


def names_of(action: Action) -> tuple[str, ...]:
    """Return every name under which entries of this act stand in the log, those of former releases among them."""
    return (action, *_FORMER_NAMES.get(action, ()))
