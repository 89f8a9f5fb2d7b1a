"""What a workflow posts to its callback URL, and the event that it becomes. No I/O."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import JsonValue

from services.contracts import FailureKind, WebhookFailed, WebhookSucceeded
from services.contracts.admission import MAX_TEXT_BYTES, shortened, storable
from services.contracts.callbacks import Callback
from services.contracts.ids import derived_id
from services.contracts.replies import NoReply, Reply, read_reply
from services.contracts.secrecy import forms, without_secrets


@dataclass(frozen=True, slots=True)
class ReportedFailure:
    """The workflow says that it failed; the explanation is a sentence of at most 2 KiB."""

    explanation: str


def read_callback(body: bytes, content_type: str | None, *, token: str) -> Reply | ReportedFailure | NoReply:
    """Return what a body posted to a callback URL says.

    A JSON object with an `error` reports a failure; everything else is read as a webhook's answer is. Explanations
    that quote the body do not tell the URL's `token`.
    """
    error, secrets = _error(body), tuple(forms(token))
    return ReportedFailure(_explanation(error, secrets)) if error else read_reply(body, content_type, secrets=secrets)


def result_of(callback: Callback, posted: Reply | ReportedFailure, now: datetime) -> WebhookSucceeded | WebhookFailed:
    """Return the event that ends the callback's session. All posts of one session give the same event id."""
    common: dict[str, Any] = {
        "event_id": derived_id(callback.session_id, "callback"),
        "occurred_at": now,
        "session_id": callback.session_id,
        "conversation_id": callback.conversation_id,
        "persona_id": callback.persona_id,
        "user_id": callback.user_id,
        "attempt": callback.attempt,
        "duration_ms": max(timedelta(), now - callback.called_at) // timedelta(milliseconds=1),
    }
    if isinstance(posted, Reply):
        return WebhookSucceeded(**common, status_code=200, reply=posted.text)
    return WebhookFailed(**common, failure_kind=FailureKind.WORKFLOW_ERROR, error_message=posted.explanation)


def _error(body: bytes) -> JsonValue:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error: JsonValue = value.get("error") if isinstance(value, dict) else None
    return error


def _explanation(error: JsonValue, secrets: tuple[str, ...]) -> str:
    # n8n's own errors are objects with a message.
    said = error.get("message") or error if isinstance(error, dict) else error
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    told = shortened(storable(without_secrets(text, secrets)), MAX_TEXT_BYTES - 200)
    return f"The workflow reported that it failed (it says: {told}): look at its executions in n8n."
