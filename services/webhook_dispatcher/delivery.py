"""What a call of a webhook amounts to: one pure table from what came back to a verdict.

Everything that n8n is known to answer has its row here; what a success says is read in `contracts.replies`,
whether a failed call is made again is decided in `retries`.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from services.contracts import FailureKind
from services.contracts.admission import MAX_TEXT_BYTES, shortened, storable
from services.contracts.replies import NoReply, Reply, read_reply
from services.contracts.secrecy import without_secrets
from services.webhook_dispatcher.outcomes import Answer, NoAnswer, Trouble


class Again(Enum):
    """Who may make a failed call again."""

    ANYONE = "anyone"
    """The workflow provably was not started."""
    IDEMPOTENT = "idempotent"
    """It may have run: only personas that bear a second run."""
    NOBODY = "nobody"
    """A fault of the configuration: the same call would end the same way."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that brought no reply."""

    kind: FailureKind
    explanation: str
    again: Again
    unwell: bool = False
    """The place that was called is not well: counts for its circuit breaker."""
    status: int | None = None
    retry_after: str | None = None
    response_body: str | None = None


class _Row(NamedTuple):
    kind: FailureKind
    again: Again
    unwell: bool
    explanation: str


class _Saying(NamedTuple):
    """n8n's own words: status, beginning and end of the `message` in a JSON body."""

    status: int
    beginning: str
    end: str
    kind: FailureKind
    again: Again
    explanation: str


_SEE_EXECUTIONS = "look at its executions in n8n"

_TROUBLES: dict[Trouble, _Row] = {
    Trouble.NOT_RESOLVED: _Row(
        FailureKind.CONNECT,
        Again.ANYONE,
        True,
        "The host name of the webhook could not be resolved: check the persona's webhookUrl",
    ),
    Trouble.NOT_CONNECTED: _Row(
        FailureKind.CONNECT,
        Again.ANYONE,
        True,
        "No connection to the webhook could be made: check that n8n runs and that the persona's webhookUrl is right",
    ),
    Trouble.TLS_FAILED: _Row(
        FailureKind.TLS,
        Again.ANYONE,
        True,
        "No trusted TLS connection to the webhook could be made: check the certificate of its host",
    ),
    Trouble.ADDRESS_REFUSED: _Row(
        FailureKind.ADDRESS_REFUSED,
        Again.NOBODY,
        False,
        "The webhook's address may not be called: use a public one, or let the operator add it to EGRESS_ALLOW_CIDRS",
    ),
    Trouble.NOT_IN_TIME: _Row(
        FailureKind.TIMEOUT,
        Again.IDEMPOTENT,
        True,
        "The webhook did not answer in time: make the workflow faster or raise the persona's timeoutSeconds",
    ),
    Trouble.LOST: _Row(
        FailureKind.CONNECT,
        Again.IDEMPOTENT,
        True,
        f"The connection was lost before the answer was complete: the workflow may have run, {_SEE_EXECUTIONS}",
    ),
    Trouble.TOO_LARGE: _Row(
        FailureKind.TOO_LARGE,
        Again.NOBODY,
        False,
        "The answer is too large: let the workflow return only its reply",
    ),
    Trouble.NOT_HTTP: _Row(
        FailureKind.BAD_REPLY,
        Again.NOBODY,
        False,
        "What answered does not speak HTTP: check the persona's webhookUrl",
    ),
    Trouble.NO_CREDENTIALS: _Row(
        FailureKind.UNAUTHORIZED,
        Again.NOBODY,
        False,
        "The persona's credentials cannot be decrypted: give every process the same PERSONA_SECRETS_KEY, "
        "then set the persona's auth again",
    ),
}

_N8N_SAYS = (
    _Saying(
        404,
        "The requested webhook ",
        "is not registered.",
        FailureKind.NOT_REGISTERED,
        Again.NOBODY,
        "No active workflow listens on the webhook: activate it in n8n, or correct the persona's webhookUrl",
    ),
    _Saying(
        404,
        "This webhook is not registered for ",
        "",
        FailureKind.NOT_REGISTERED,
        Again.NOBODY,
        "The webhook listens for another method: set HTTP Method of its webhook node to POST",
    ),
    _Saying(
        500,
        "",
        " Respond to Webhook node found in the workflow",
        FailureKind.WORKFLOW_ERROR,
        Again.NOBODY,
        "The workflow was not started, for its webhook node's Respond setting does not fit its nodes: correct that",
    ),
    _Saying(
        500,
        "No item ",
        "",
        FailureKind.NO_REPLY,
        Again.NOBODY,
        "The workflow ran, but its last node returned no data: let it return an object with the field reply",
    ),
    _Saying(
        500,
        "Workflow ",
        "Workflow could not be started!",
        FailureKind.WORKFLOW_ERROR,
        Again.ANYONE,
        "The workflow could not be started: open it in n8n, correct it and activate it again",
    ),
    _Saying(
        500,
        "Error in workflow",
        "",
        FailureKind.WORKFLOW_ERROR,
        Again.IDEMPOTENT,
        f"The workflow failed before it replied: {_SEE_EXECUTIONS}",
    ),
)
"""Looked for before the bare status."""

_REFUSED = "The webhook refused the credentials: set the persona's auth as its webhook node in n8n asks"
_PROXY_GAVE_UP = "A proxy gave up waiting for the workflow: make it faster, or reply before its last node"

_STATUSES: dict[int, _Row] = {
    401: _Row(FailureKind.UNAUTHORIZED, Again.NOBODY, False, _REFUSED),
    403: _Row(FailureKind.UNAUTHORIZED, Again.NOBODY, False, _REFUSED),
    408: _Row(FailureKind.HTTP_4XX, Again.IDEMPOTENT, True, "The webhook gave up waiting for the request"),
    429: _Row(FailureKind.HTTP_4XX, Again.ANYONE, True, "The webhook takes no more calls for now: send it later"),
    503: _Row(FailureKind.HTTP_5XX, Again.ANYONE, True, "The webhook is unavailable: check that n8n runs"),
    502: _Row(FailureKind.HTTP_5XX, Again.IDEMPOTENT, True, "A proxy could not reach n8n: check that n8n runs"),
    504: _Row(FailureKind.TIMEOUT, Again.IDEMPOTENT, True, _PROXY_GAVE_UP),
    524: _Row(FailureKind.TIMEOUT, Again.IDEMPOTENT, True, _PROXY_GAVE_UP),
}

_STATUS_CLASSES: dict[int, _Row] = {
    3: _Row(
        FailureKind.HTTP_4XX,
        Again.NOBODY,
        False,
        "The webhook redirects, and redirects are not followed: set the persona's webhookUrl to the final address",
    ),
    4: _Row(
        FailureKind.HTTP_4XX,
        Again.NOBODY,
        False,
        "The webhook refused the call: check the persona's webhookUrl and its webhook node in n8n",
    ),
    5: _Row(FailureKind.HTTP_5XX, Again.IDEMPOTENT, False, f"The webhook failed: {_SEE_EXECUTIONS}"),
}


def judge(outcome: Answer | NoAnswer) -> Reply | Failed:
    """Return the reply that a call brought, or how it failed."""
    if isinstance(outcome, NoAnswer):
        kind, again, unwell, explanation = _TROUBLES[outcome.trouble]
        return Failed(kind, _sentence(explanation, outcome.detail), again, unwell)
    if 200 <= outcome.status < 300:
        return _judge_success(outcome)
    return _judge_refusal(outcome)


def _judge_success(answer: Answer) -> Reply | Failed:
    read: Reply | NoReply
    if answer.content_encoding not in {None, "", "identity"}:
        read = NoReply(FailureKind.BAD_REPLY, "The answer is compressed though that was not asked for: turn that off.")
    else:
        read = read_reply(answer.body, answer.content_type, stream=answer.stream, secrets=answer.secrets)
    if isinstance(read, Reply):
        return read
    again = Again.IDEMPOTENT if read.kind is FailureKind.WORKFLOW_ERROR else Again.NOBODY
    return Failed(read.kind, storable(read.explanation), again, status=answer.status, response_body=_excerpt(answer))


def _judge_refusal(answer: Answer) -> Failed:
    said = _message(answer.body)
    kind, again, unwell, explanation = _row(answer.status, said)
    shown = without_secrets(said, answer.secrets)[:300]
    detail = f"it answered {answer.status}" + (f", {shown}" if shown else "")
    return Failed(
        kind,
        _sentence(explanation, detail),
        again,
        unwell,
        status=answer.status,
        retry_after=answer.retry_after,
        response_body=_excerpt(answer),
    )


def _row(status: int, said: str) -> _Row:
    for saying in _N8N_SAYS:
        if status == saying.status and said.startswith(saying.beginning) and said.endswith(saying.end):
            return _Row(saying.kind, saying.again, False, saying.explanation)
    return _STATUSES.get(status) or _STATUS_CLASSES.get(status // 100, _STATUS_CLASSES[4])


def _message(body: bytes) -> str:
    if len(body) > 16_384:
        return ""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = value.get("message") if isinstance(value, dict) else None
    return message if isinstance(message, str) else ""


def _sentence(explanation: str, detail: str) -> str:
    text = f"{explanation} ({detail})." if detail else f"{explanation}."
    return shortened(storable(text), MAX_TEXT_BYTES)


def _excerpt(answer: Answer) -> str | None:
    """Return what the events carry of a failing body."""
    text = answer.body.decode(errors="replace")
    shown = without_secrets(text, answer.secrets) if answer.secrets else text
    return shortened(storable(shown[:MAX_TEXT_BYTES]), MAX_TEXT_BYTES) or None
