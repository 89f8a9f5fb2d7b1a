"""What n8n answers to a webhook call, case by case: the pure half of the stub n8n."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from zlib import crc32

import orjson

_JSON = "application/json; charset=utf-8"
_BETWEEN_WORDS_SECONDS, _LONGEST_STREAM_SECONDS = 0.2, 5.0
"""Slow enough to be watched, and never as long as a persona has time."""


@dataclass(frozen=True, slots=True)
class WebhookCall:
    """One call of a persona's webhook: the n-th (from 1) of its session."""

    persona_id: str
    session_id: str
    message: str
    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, after `delay_seconds`; several pieces of `body` are sent with `pause_seconds` between two."""

    status: int = 200
    body: tuple[bytes, ...] = (b"",)
    content_type: str | None = _JSON
    headers: tuple[tuple[str, str], ...] = ()
    delay_seconds: float = 0
    pause_seconds: float = 0
    reply_later: bytes | None = None
    """JSON that is posted to the call's callback URL a moment after the answer."""


Persona = Callable[[WebhookCall], Answer | None]
"""Decides the answer to one call; None is no answer at all, for as long as the caller waits."""


def _json(content: object, status: int = 200, delay_seconds: float = 0) -> Answer:
    return Answer(status, (orjson.dumps(content),), delay_seconds=delay_seconds)


def _echo(call: WebhookCall) -> Answer:
    return _json({"reply": f"You said: {call.message}"})


def _slow(call: WebhookCall) -> Answer:
    return _json({"reply": f"You said: {call.message}"}, delay_seconds=3)


def _uneven(call: WebhookCall) -> Answer:
    # By the session's id, which is random: a repeated call takes as long.
    delay_seconds = crc32(call.session_id.encode()) % 500 / 1000
    return _json({"reply": f"You said: {call.message}"}, delay_seconds=delay_seconds)


def _flaky(call: WebhookCall) -> Answer:
    return _CANNOT_START if call.number <= 2 else _echo(call)


def _overloaded(call: WebhookCall) -> Answer:
    return _TOO_MANY if call.number == 1 else _echo(call)


def _streaming(call: WebhookCall) -> Answer:
    words = f"You said: {call.message}".split(" ")
    spaced = [words[0], *(f" {word}" for word in words[1:])]
    node = _stream_node("Respond to Webhook")
    pieces = [_line({"type": "item", "content": word, "metadata": node}) for word in spaced]
    pieces[0] = _line({"type": "begin", "metadata": node}) + pieces[0]
    pieces[-1] += _line({"type": "end", "metadata": node})
    return Answer(body=tuple(pieces), pause_seconds=min(_BETWEEN_WORDS_SECONDS, _LONGEST_STREAM_SECONDS / len(pieces)))


def _line(chunk: dict[str, object]) -> bytes:
    return orjson.dumps(chunk, option=orjson.OPT_APPEND_NEWLINE)


def _stream_node(name: str) -> dict[str, object]:
    return {"nodeId": "00000000-0000-0000-0000-000000000001", "nodeName": name, "itemIndex": 0, "runIndex": 0}


def _callback(call: WebhookCall) -> Answer:
    return replace(_STARTED, reply_later=orjson.dumps({"reply": f"You said: {call.message}"}))


def _dedupe(call: WebhookCall) -> Answer:
    return _json({"reply": f"You said: {call.message}", "sessionId": call.session_id, "repeated": call.number > 1})


def _refused(status: int, said: bytes) -> Answer:
    return Answer(status, (said,), None, (("www-authenticate", 'Basic realm="Webhook"'),))


def _always(answer: Answer | None) -> Persona:
    return lambda _: answer


def not_registered(method: str, path: str) -> Answer:
    """The answer to a path on which no active workflow listens."""
    hint = (
        "The workflow must be active for a production URL to run successfully. You can activate the workflow using "
        "the toggle in the top-right of the editor. Note that unlike test URL calls, production URL calls aren't "
        "shown on the canvas (only in the executions list)"
    )
    message = f'The requested webhook "{method} {path}" is not registered.'
    return _json({"code": 404, "message": message, "hint": hint}, status=404)


UNREADABLE = _json({"code": 422, "message": "Failed to parse request body"}, status=422)
"""The answer to a body that is no JSON object."""

_STARTED = _json({"message": "Workflow was started"})
_CANNOT_START = _json({"code": 0, "message": "Workflow Webhook Error: Workflow could not be started!"}, status=500)
_TOO_MANY = Answer(429, (b"Too Many Requests",), "text/plain; charset=utf-8", (("retry-after", "1"),))
_WRONG_METHOD = "This webhook is not registered for POST requests. Did you mean to make a GET request?"
_NO_ITEM = _json({"code": 0, "message": "No item to return was found"}, status=500)

PERSONAS: dict[str, Persona] = {
    "echo": _echo,  # a Respond node, at once
    "slow": _slow,  # a Respond node, after 3 s
    "uneven": _uneven,  # a Respond node, after up to 0.5 s
    "flaky": _flaky,  # cannot be started twice, then a Respond node
    "streaming": _streaming,  # a Respond node in streaming mode
    "immediate": _always(_STARTED),  # Respond immediately
    "callback": _callback,  # Respond immediately, then post the reply to the callback URL
    "forgetful": _always(_STARTED),  # Respond immediately, and never post it
    "last-node-empty": _always(_NO_ITEM),
    "empty": _always(Answer()),  # the Respond node was never reached
    "broken": _always(_json({"message": "Error in workflow"}, status=500)),  # a node fails, without a Respond node
    "cannot-start": _always(_CANNOT_START),
    "not-registered": _always(not_registered("POST", "not-registered")),  # not active, or unknown
    "unauthorized": _always(_refused(401, b"Authorization is required!")),  # basic authentication
    "forbidden": _always(_refused(403, b"Authorization data is wrong!")),  # header authentication
    "overloaded": _overloaded,  # a proxy before n8n refuses once, then a Respond node
    "hang": _always(None),  # n8n at its concurrency limit
    # The cloud proxy gives up after 100 s; the stub does so at once.
    "cloud-timeout": _always(Answer(524, (b"error code: 524",), "text/plain; charset=UTF-8")),
}
"""One persona a row of what n8n answers; its webhook is `/webhook/<persona>`."""

CALLBACK_SECONDS = {"callback": 60.0, "forgetful": 3.0}
"""The personas that reply by callback, and within how long."""

WEBHOOKS: dict[str, Persona] = {
    **PERSONAS,
    "last-node": _echo,
    "dedupe": _dedupe,
    "broken-before-respond": _always(Answer()),  # a node fails, and the Respond node is not reached
    "broken-respond": _always(Answer()),  # the Respond node fails
    "streaming-broken": _always(_json({"type": "error", "metadata": _stream_node("Fail")})),
    "no-respond": _always(_json({"code": 0, "message": "No Respond to Webhook node found in the workflow"}, 500)),
    "skipped": _always(_json({"message": "Webhook call received"})),  # the option Only Run If says no
    "wrong-method": _always(_json({"code": 404, "message": _WRONG_METHOD}, 404)),
    "wrong-password": _always(_refused(401, b"Authentication data is wrong!")),  # basic authentication
    "no-token": _always(_refused(401, b"No token provided")),  # JWT authentication
    "wrong-token": _always(_refused(403, b"invalid signature")),
}
"""Every webhook of the stub: those of the personas that `up` knows, and rarer answers."""
