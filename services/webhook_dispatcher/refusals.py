"""Why a message is failed without a call, or without another. Time in Unix seconds is an argument."""

from typing import NamedTuple

from services.contracts import FailureKind
from services.webhook_dispatcher.personas import Persona
from services.webhook_dispatcher.tracking import Message


class Refusal(NamedTuple):
    """The failure of a message that is not called."""

    kind: FailureKind
    explanation: str


EXPIRED = Refusal(
    FailureKind.EXPIRED,
    "The message waited longer than a session may take: see whether its persona was paused or dispatchers were down, "
    "and send it again.",
)
NO_CALLBACK_URL = Refusal(
    FailureKind.NO_REPLY,
    "The persona replies by callback, and no callback URL can be made: let the operator set CALLBACK_BASE_URL for "
    "gateway and dispatcher, or set the persona without callbackSeconds.",
)
TOO_MUCH_STUCK = Refusal(
    FailureKind.OVERLOADED,
    "Too many messages wait for a webhook that does not get on: check that n8n runs and answers, and send it again.",
)
TOO_MUCH_PAUSED = Refusal(
    FailureKind.OVERLOADED,
    "The persona is paused, and more messages wait for it than are held: send it again once the persona is resumed.",
)


def unknown_persona(persona_id: str) -> Refusal:
    """Return the refusal of a message to a persona that is not there; an id has at most 128 characters."""
    return Refusal(
        FailureKind.UNKNOWN_PERSONA,
        f"There is no persona {persona_id!r}: correct the personaId, or create the persona, and send it again.",
    )


def past_deadline(kind: FailureKind) -> Refusal:
    """Return the refusal of a message whose deadline passed while the webhook was not well, as this kind tells."""
    return Refusal(
        kind,
        "The webhook was not well until the message's deadline passed: check that n8n runs and answers, or raise the "
        "persona's deadlineSeconds.",
    )


def seconds_kept(message: Message, persona: Persona, now: float, timeout_hours: float) -> float:
    """Return in how many seconds the message is too old to be called."""
    hours = min(timeout_hours, persona.session_timeout_hours or timeout_hours)
    return message.sent_ms / 1000 + hours * 3600 - now


def callable_persona(
    message: Message, persona: Persona | None, now: float, timeout_hours: float, *, takes_callbacks: bool
) -> Persona | Refusal:
    """Return the persona, as the message wants it to be called, if its webhook may be called with that."""
    if persona is None:
        return unknown_persona(message.event.persona_id)
    if seconds_kept(message, persona, now, timeout_hours) < 0:
        return EXPIRED
    if persona.callback_seconds is not None and not takes_callbacks:
        return NO_CALLBACK_URL
    return persona.under(message.event.call_policy)
