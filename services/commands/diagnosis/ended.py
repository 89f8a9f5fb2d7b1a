"""Why a session ended as it did. Pure."""

from services.commands.diagnosis.causes import CAUSES
from services.commands.diagnosis.facts import Facts, Tracked
from services.commands.diagnosis.words import LONGEST, Verdict, first, persona, time_of
from services.commands.wording import duration, shown
from services.contracts.session import FailureKind, SessionStatus
from services.session_tracker.timeouts import REQUESTED_BY as SCHEDULE


def explain_ended(facts: Facts, session: Tracked) -> Verdict:
    """Return what ended the session, and what to do."""
    name = f"Session {facts.session_id}"
    match session.status:
        case SessionStatus.COMPLETED:
            took = "" if session.response_ms is None else f" after {duration(session.response_ms / 1000)}"
            told = f"{name} completed: persona {persona(session)} replied{took} at attempt {max(1, session.attempts)}"
            return Verdict("completed", f"{told}; there is nothing to do.")
        case SessionStatus.FAILED:
            return Verdict("failed", _failed(name, session))
        case SessionStatus.CANCELLED:
            return Verdict("cancelled", _cancelled(name, facts))
        case _:
            return Verdict("timed-out", _timed_out(name, facts))


def _failed(name: str, session: Tracked) -> str:
    if session.failure_kind not in set(FailureKind):
        return f"{name} failed ({session.failure_kind}): see its timeline."
    what, step = CAUSES[FailureKind(session.failure_kind)]
    attempt = "without a call" if session.attempts == 0 else f"at attempt {session.attempts}"
    return f"{name} failed {attempt} of persona {persona(session)}, {session.failure_kind}: {what}; {step}."


def _cancelled(name: str, facts: Facts) -> str:
    entry = first(facts, "CancelRequested")
    who = shown(str(entry["requestedBy"]), LONGEST) if entry is not None and entry.get("requestedBy") else "its user"
    ended = None if facts.tracked is None else facts.tracked.ended_at
    at = "" if ended is None else f" at {time_of(ended)}"
    return f"{name} was cancelled by {who}{at}: there is nothing to do, and a retry makes a new session of its message."


def _timed_out(name: str, facts: Facts) -> str:
    sweep = first(facts, "TimeoutSweep")
    by, hours = "a sweep", None if sweep is None else sweep.get("maxAgeHours")
    if sweep is not None and sweep.get("requestedBy"):
        asked = str(sweep["requestedBy"])
        by = "the scheduled sweep" if asked == SCHEDULE else f"a sweep that {shown(asked, LONGEST)} asked for"
    long = (
        "for too long" if not isinstance(hours, int | float) else f"for {hours:g} {'hour' if hours == 1 else 'hours'}"
    )
    if any(str(entry.get("type")).startswith("Webhook") and not entry.get("late") for entry in facts.timeline):
        step = "its last attempt stands in the timeline: look for the execution in n8n, then retry the session"
    else:
        step = "no attempt was ever told: see whether dispatchers ran then or the persona was paused, then retry it"
    return f"{name} was ended by {by}, because nothing had happened {long}: {step}."
