"""What one session's state means and what to do about it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

from services.commands.wording import shown
from services.contracts.session import AttemptOutcome, FailureKind, SessionStatus

Entry = Mapping[str, object]
"""One happening of a timeline, as the gateway tells it."""

_TIMES = {"asOf", "retryAt", "deadlineAt"}
_LONGEST_VALUE = 200
_SCHEDULE = "sweeper"
"""Who asks for the sweeps that come by the clock."""

CAUSES: Mapping[FailureKind, tuple[str, str]] = {
    FailureKind.CONNECT: (
        "the webhook's address took no connection",
        "check that n8n runs and that the URL is right",
    ),
    FailureKind.TLS: (
        "the webhook's certificate was not accepted",
        "check its host name, its issuer and its dates",
    ),
    FailureKind.TIMEOUT: (
        "n8n did not answer in time",
        "look for its execution, or raise the persona's timeoutSeconds",
    ),
    FailureKind.HTTP_4XX: (
        "the webhook refused the request",
        "compare its method and authentication with the persona",
    ),
    FailureKind.HTTP_5XX: (
        "n8n, or a proxy before it, failed",
        "look at its log at that time",
    ),
    FailureKind.NOT_REGISTERED: (
        "no active workflow listens at the persona's URL",
        "activate it, or correct the path",
    ),
    FailureKind.UNAUTHORIZED: (
        "the webhook wants other credentials",
        "set the persona's authentication anew",
    ),
    FailureKind.WORKFLOW_ERROR: (
        "a node of the workflow failed",
        "open its execution in n8n",
    ),
    FailureKind.NO_REPLY: (
        "the workflow ended without a reply",
        "let its Respond node be reached on every path",
    ),
    FailureKind.ACKNOWLEDGED_ONLY: (
        "n8n only said that it started",
        "set the webhook to respond with a Respond node",
    ),
    FailureKind.BAD_REPLY: (
        "the reply could not be read",
        "see which reply formats the README lists",
    ),
    FailureKind.TOO_LARGE: (
        "the reply was larger than allowed",
        "shorten it in the workflow",
    ),
    FailureKind.ADDRESS_REFUSED: (
        "the webhook's address is not allowed",
        "add its network to EGRESS_ALLOW_CIDRS",
    ),
    FailureKind.UNKNOWN_PERSONA: (
        "there is no such persona",
        "make it with `chat-sessions persona set`",
    ),
    FailureKind.OVERLOADED: (
        "the persona could not keep up",
        "see how many of its calls hang, then retry the session",
    ),
    FailureKind.EXPIRED: (
        "the message was too old to call",
        "see whether its persona was paused or dispatchers down",
    ),
    FailureKind.CALLBACK_TIMEOUT: (
        "n8n accepted the message and never called back",
        "open its execution in n8n",
    ),
}
"""Of each failure: what happened, and what to do."""

_MEANINGS: Mapping[SessionStatus, str] = {
    SessionStatus.ACTIVE: "It has not ended.",
    SessionStatus.COMPLETED: "The persona replied; all is well.",
    SessionStatus.FAILED: "The webhook failed for good.",
    SessionStatus.TIMEOUT: "A sweep ended it, because nothing had happened for longer than it allowed.",
    SessionStatus.CANCELLED: "Its user, or an admin, cancelled it.",
}


def explain_session(session: Mapping[str, object]) -> list[str]:
    """Sentences about a session as the gateway's JSON describes it: what its state means, and the likely cause."""
    status = SessionStatus(str(session["status"]))
    timeline = _timeline(session)
    meaning = (_timed_out(timeline) if status is SessionStatus.TIMEOUT else None) or _MEANINGS[status]
    sentences = [f"Session {session['sessionId']} is {status}. {meaning}"]
    if session.get("errorMessage"):
        sentences.append(f"It says: {session['errorMessage']}")
    kind = session.get("failureKind")
    if isinstance(kind, str) and kind in set(FailureKind):
        what, step = CAUSES[FailureKind(kind)]
        sentences.append(f"{what[0].upper()}{what[1:]}: {step}." if not what.startswith("n8n") else f"{what}: {step}.")
    if status is SessionStatus.ACTIVE:
        sentences.append(_why_active(timeline))
    return sentences


def timeline_lines(session: Mapping[str, object]) -> list[str]:
    """The session's timeline, one line an entry: when (UTC), what, and whatever else the gateway tells of it.

    The date stands where it changes. What goes without saying is left out: that an event came in time, or was no dry
    run, and an error message that was told before.
    """
    return list(_lines(_timeline(session), session.get("errorMessage")))


def _timeline(session: Mapping[str, object]) -> Sequence[Entry]:
    timeline = session.get("timeline")
    return timeline if isinstance(timeline, list) else []


def _lines(timeline: Sequence[Entry], error_message: object) -> Iterator[str]:
    day: date | None = None
    messages = {error_message}
    for entry in timeline:
        at = _moment(entry.get("at"))
        when = str(entry.get("at")) if at is None else _short(at, day)
        day = day if at is None else at.date()
        yield "  ".join(["", when, str(entry.get("type")), *_details(entry, messages)])
        messages.add(entry.get("errorMessage"))


def _details(entry: Entry, messages: set[object]) -> Iterator[str]:
    if entry.get("late") is True:
        yield "late"
    for name, value in entry.items():
        repeated = (name == "errorMessage" and value in messages) or (name == "asOf" and value == entry.get("at"))
        if name in {"at", "type", "late"} or value is None or (name, value) == ("dryRun", False) or repeated:
            continue
        at = _moment(value) if name in _TIMES else None
        yield f"{name}={shown(str(value), _LONGEST_VALUE) if at is None else _short(at, at.date()).strip()}"


def _moment(told: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(told)).astimezone(UTC)
    except ValueError:
        return None


def _short(at: datetime, day: date | None) -> str:
    time = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
    return f"{'' if at.date() == day else at.date().isoformat():10} {time}"


def _timed_out(timeline: Sequence[Entry]) -> str | None:
    for entry in timeline:
        hours = entry.get("maxAgeHours")
        if entry.get("type") == "TimeoutSweep" and not entry.get("late") and isinstance(hours, int | float):
            asked = entry.get("requestedBy")
            sweep = "The scheduled sweep" if asked == _SCHEDULE else f"A sweep that {asked} asked for"
            return f"{sweep} ended it, because nothing had happened for {hours:g} {'hour' if hours == 1 else 'hours'}."
    return None


def _why_active(timeline: Sequence[Entry]) -> str:
    if not any(str(entry.get("type")).startswith("Webhook") for entry in timeline):
        return (
            "No attempt has been told: the dispatcher has not taken it, its call is still running, or its persona is "
            "paused. See the dispatcher's health and lag, and earlier messages of the same conversation."
        )
    accepted = next((entry for entry in timeline if entry.get("outcome") == AttemptOutcome.ACCEPTED), None)
    if accepted is not None:
        return (
            f"The workflow accepted the message and has not posted its reply to callbackUrl; it may until "
            f"{accepted.get('deadlineAt')}. See its execution in n8n."
        )
    return "An attempt has been told and the session goes on: it waits for its next attempt."
