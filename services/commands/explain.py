"""What one session's state means and what to do about it. Pure."""

from collections.abc import Mapping, Sequence

from services.contracts.session import FailureKind, SessionStatus

_CAUSES: Mapping[FailureKind, str] = {
    FailureKind.CONNECT: "The webhook's address took no connection: check that n8n runs and that the URL is right.",
    FailureKind.TLS: "The webhook's certificate was not accepted: check its host name, its issuer and its dates.",
    FailureKind.TIMEOUT: "n8n did not answer in time: look for its execution, or raise the persona's timeoutSeconds.",
    FailureKind.HTTP_4XX: "The webhook refused the request: compare its method and authentication with the persona.",
    FailureKind.HTTP_5XX: "n8n, or a proxy before it, failed: look at its log at that time.",
    FailureKind.NOT_REGISTERED: "No active workflow listens at the persona's URL: activate it, or correct the path.",
    FailureKind.UNAUTHORIZED: "The webhook wants other credentials: set the persona's authentication anew.",
    FailureKind.WORKFLOW_ERROR: "A node of the workflow failed: open its execution in n8n.",
    FailureKind.NO_REPLY: "The workflow ended without a reply: let its Respond node be reached on every path.",
    FailureKind.ACKNOWLEDGED_ONLY: "n8n only said that it started: set the webhook to respond with a Respond node.",
    FailureKind.BAD_REPLY: "The reply could not be read: see which reply formats the README lists.",
    FailureKind.TOO_LARGE: "The reply was larger than allowed: shorten it in the workflow.",
    FailureKind.ADDRESS_REFUSED: "The webhook's address is not allowed: add its network to EGRESS_ALLOW_CIDRS.",
    FailureKind.UNKNOWN_PERSONA: "There is no such persona: make it with `chat-sessions persona set`.",
    FailureKind.OVERLOADED: "The persona could not keep up: see how many of its calls hang, then retry the session.",
    FailureKind.EXPIRED: "The message was too old when a dispatcher saw it: see whether dispatchers were down.",
    FailureKind.CALLBACK_TIMEOUT: "n8n accepted the message and never called back: open its execution in n8n.",
}

_MEANINGS: Mapping[SessionStatus, str] = {
    SessionStatus.ACTIVE: "It has not ended.",
    SessionStatus.COMPLETED: "The persona replied; all is well.",
    SessionStatus.FAILED: "The webhook failed for good.",
    SessionStatus.TIMEOUT: "A sweep ended it, because nothing had happened for CHAT_SESSION_TIMEOUT_HOURS.",
    SessionStatus.CANCELLED: "Its user, or an admin, cancelled it.",
}


def explain_session(session: Mapping[str, object]) -> list[str]:
    """Sentences about a session as the gateway's JSON describes it: what its state means, and the likely cause."""
    status = SessionStatus(str(session["status"]))
    sentences = [f"Session {session['sessionId']} is {status}. {_MEANINGS[status]}"]
    if session.get("errorMessage"):
        sentences.append(f"It says: {session['errorMessage']}")
    kind = session.get("failureKind")
    if isinstance(kind, str) and kind in set(FailureKind):
        sentences.append(_CAUSES[FailureKind(kind)])
    if status is SessionStatus.ACTIVE:
        sentences.append(_why_active(session.get("timeline")))
    return sentences


def timeline_lines(session: Mapping[str, object]) -> list[str]:
    """The session's timeline, one line an entry: when, what, and whatever else the gateway tells of it."""
    timeline = session.get("timeline")
    if not isinstance(timeline, Sequence):
        return []
    return [_timeline_line(entry) for entry in timeline]


def _timeline_line(entry: Mapping[str, object]) -> str:
    rest = [f"{name}={value}" for name, value in entry.items() if name not in {"at", "type"}]
    return "  ".join(["", str(entry.get("at")), str(entry.get("type")), *rest])


def _why_active(timeline: object) -> str:
    told = str(timeline)
    if "Webhook" not in told:
        return (
            "No attempt has been told: the dispatcher has not taken it, or its call is still running. "
            "See the dispatcher's health and lag, and earlier messages of the same conversation."
        )
    return "An attempt has been told and the session goes on: it waits for its next attempt, or for a callback."
