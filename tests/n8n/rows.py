"""The rows of what n8n answers: how each is brought about on a real n8n, and which webhook of the stub plays it."""

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from services.contracts import FailureKind, MessageSent
from services.contracts.ids import new_id
from services.contracts.replies import Reply
from services.local.n8n_workflows import WebhookCredentials
from services.runtime.egress import EgressRules
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.credentials import NO_CREDENTIALS, Credentials, TokenKey
from services.webhook_dispatcher.delivery import judge
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.outcomes import Answer, NoAnswer
from services.webhook_dispatcher.personas import Persona

LOOPBACK = EgressRules.parse(["127.0.0.0/8"])
MESSAGE = "Hello"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Proof = Callable[[WebhookCredentials], Credentials]


def _basic(user: str, password: str) -> Credentials:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Credentials(header=("authorization", f"Basic {encoded}"))


def _token(secret: str) -> Credentials:
    return Credentials(token_key=TokenKey(secret))


@dataclass(frozen=True)
class Row:
    """One case. `webhook` is its path on a real n8n, `stub` the one that plays it; `kind` is None for a reply."""

    case: str
    webhook: str
    kind: FailureKind | None
    stub: str
    credentials: Proof | None = None


ROWS = (
    Row("Respond to Webhook node", "echo", None, "echo"),
    Row("the same, after 3 s of work", "slow", None, "slow"),
    Row("last node, with data", "last-node", None, "last-node"),
    Row("streaming", "streaming", None, "streaming"),
    Row("does its work once a session", "dedupe", None, "dedupe"),
    Row("Respond immediately", "immediate", FailureKind.ACKNOWLEDGED_ONLY, "immediate"),
    Row("the same, then a callback (to a persona that replies)", "callback", FailureKind.ACKNOWLEDGED_ONLY, "callback"),
    Row("Only Run If says no", "skipped", FailureKind.NO_REPLY, "skipped"),
    Row("last node, no data", "last-node-empty", FailureKind.NO_REPLY, "last-node-empty"),
    Row("Respond node never reached", "empty", FailureKind.NO_REPLY, "empty"),
    Row("a node fails before the Respond node", "broken-before-respond", FailureKind.NO_REPLY, "broken-before-respond"),
    Row("the Respond node itself fails", "broken-respond", FailureKind.NO_REPLY, "broken-respond"),
    Row("a node fails, last-node mode", "broken", FailureKind.WORKFLOW_ERROR, "broken"),
    Row("a node fails, streaming", "streaming-broken", FailureKind.WORKFLOW_ERROR, "streaming-broken"),
    Row("Respond node missing", "no-respond", FailureKind.WORKFLOW_ERROR, "no-respond"),
    Row("cannot start", "cannot-start", FailureKind.WORKFLOW_ERROR, "cannot-start"),
    Row("not active or unknown", "not-registered", FailureKind.NOT_REGISTERED, "not-registered"),
    Row("webhook for another method", "wrong-method", FailureKind.NOT_REGISTERED, "wrong-method"),
    Row("basic auth: none given", "basic-auth", FailureKind.UNAUTHORIZED, "unauthorized"),
    Row(
        "basic auth: wrong",
        "basic-auth",
        FailureKind.UNAUTHORIZED,
        "wrong-password",
        lambda known: _basic(known.basic_user, "wrong"),
    ),
    Row("basic auth: right", "basic-auth", None, "echo", lambda known: _basic(known.basic_user, known.basic_password)),
    Row("header auth: none given", "header-auth", FailureKind.UNAUTHORIZED, "forbidden"),
    Row(
        "header auth: wrong",
        "header-auth",
        FailureKind.UNAUTHORIZED,
        "forbidden",
        lambda known: Credentials(header=(known.header_name, "wrong")),
    ),
    Row(
        "header auth: right",
        "header-auth",
        None,
        "echo",
        lambda known: Credentials(header=(known.header_name, known.header_value)),
    ),
    Row("JWT auth: none given", "jwt-auth", FailureKind.UNAUTHORIZED, "no-token"),
    Row("JWT auth: wrong signature", "jwt-auth", FailureKind.UNAUTHORIZED, "wrong-token", lambda _: _token("x" * 48)),
    Row("JWT auth: right", "jwt-auth", None, "echo", lambda known: _token(known.jwt_secret)),
    Row("no answer in time", "hang", FailureKind.TIMEOUT, "hang"),
)


@dataclass(frozen=True)
class Seen:
    """What came back, in a form that is the same at every run; all None but the verdict where nothing came."""

    status: int | None
    content_type: str | None
    body: str | None
    verdict: FailureKind | str
    """The failure's kind, or the reply."""


def message_sent() -> MessageSent:
    """A message as the dispatcher gets it, of a session of its own."""
    return MessageSent(
        event_id=new_id(),
        session_id=new_id(),
        conversation_id="rows",
        persona_id="row",
        user_id="alice",
        occurred_at=datetime.now(UTC),
        message=MESSAGE,
    )


async def call(
    n8n: N8n,
    url: str,
    credentials: Credentials = NO_CREDENTIALS,
    *,
    message: MessageSent | None = None,
    timeout_seconds: float = 10,
) -> Seen:
    """Call one webhook as the dispatcher does, and judge the answer as it does."""
    message = message or message_sent()
    persona = Persona("row", url, credentials=credentials)
    course = Course(time.monotonic(), timeout_seconds)
    exchange = await n8n.call(persona, message, course, traceparent=TRACEPARENT)
    return seen(exchange.outcome, str(message.session_id))


def seen(outcome: Answer | NoAnswer, session_id: str) -> Seen:
    """An outcome and its verdict, with what differs from run to run put aside."""
    judged = judge(outcome)
    verdict = judged.text if isinstance(judged, Reply) else judged.kind
    if isinstance(outcome, NoAnswer):
        return Seen(None, None, None, verdict)
    body = outcome.body.decode().replace(session_id, "SESSION")
    body = re.sub(r',"timestamp":\d+', "", body)
    body = re.sub(r'"nodeId":"[^"]*"', '"nodeId":"…"', body)
    return Seen(outcome.status, outcome.content_type, body, verdict)


def as_one_piece(body: str | None) -> object:
    """A body for comparison: a stream's pieces joined, since their number is the model's affair; others as they are."""
    if body is None or not body.startswith('{"type":'):
        return body
    chunks = [json.loads(line) for line in body.splitlines()]
    text = "".join(chunk.get("content", "") for chunk in chunks)
    ends = [(chunk["type"], chunk["metadata"]) for chunk in chunks if chunk["type"] != "item"]
    return ends, text
