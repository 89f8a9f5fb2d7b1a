"""What a persona said, read from the body of a successful answer or of a callback. No I/O.

Dispatcher and gateway read replies alike, so the rules are a contract.

Workflows are written by people, so several forms are understood: an object, an array of objects, plain text, and
n8n's streaming lines.
"""

import json
from dataclasses import dataclass
from functools import lru_cache

from services.contracts.admission import MAX_REPLY_BYTES, storable
from services.contracts.secrecy import without_secrets
from services.contracts.session import FailureKind
from services.contracts.streams import REPLY_KEYS, Stream, whole_stream

_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1", "windows-1252": "cp1252"}
_DEEPEST = 4
"""Objects and arrays within one another that are searched for a reply."""

_BINARY = ("image/", "audio/", "video/", "font/", "application/octet-stream", "application/pdf", "application/zip")


@dataclass(frozen=True, slots=True)
class Reply:
    """The persona's words: not blank, storable, at most 256 KiB."""

    text: str


@dataclass(frozen=True, slots=True)
class NoReply:
    """Why an answer that came with success is not a reply. The explanation is a sentence for the workflow's author."""

    kind: FailureKind
    explanation: str


_EMPTY = NoReply(
    FailureKind.NO_REPLY,
    "The workflow answered without a reply: a node of it failed, or a path of it ends without reaching its Respond to "
    "Webhook node; look at its executions in n8n.",
)
_ACKNOWLEDGED = NoReply(
    FailureKind.ACKNOWLEDGED_ONLY,
    "The workflow acknowledged the message without replying: set its webhook node to respond with a Respond to "
    "Webhook node or when the last node finishes, not immediately.",
)
_NOTHING_RETURNED = NoReply(
    FailureKind.NO_REPLY,
    "The workflow ran, but its last node returned no data: let it return an object with the field reply.",
)
_NOT_RUN = NoReply(
    FailureKind.NO_REPLY,
    "The webhook node took the message without running the workflow: see to its option Only Run If.",
)
_N8N_SAYS = {
    "Workflow was started": _ACKNOWLEDGED,
    "Webhook call received": _NOT_RUN,
    "Workflow executed successfully but the last node did not return any data": _NOTHING_RETURNED,
    "Workflow executed successfully but no data was returned": _NOTHING_RETURNED,
}
_WITHOUT_FIELD = NoReply(
    FailureKind.BAD_REPLY,
    f"The answer has none of the fields {', '.join(REPLY_KEYS)}: let the workflow return its reply in one of them.",
)
_MALFORMED = NoReply(
    FailureKind.BAD_REPLY,
    "The answer is declared as JSON and is not: correct what the workflow's Respond to Webhook node returns.",
)
_NOT_TEXT = NoReply(
    FailureKind.BAD_REPLY, "The answer is neither JSON nor text: let the workflow return one of the two."
)
_UNFINISHED_STREAM = NoReply(
    FailureKind.BAD_REPLY, "The workflow's stream broke off before its end: look at its executions in n8n."
)
_BAD_STREAM = NoReply(
    FailureKind.BAD_REPLY,
    "The workflow's stream holds a line that is no JSON object: let nothing but n8n's own nodes write to it.",
)
_TOO_LARGE = NoReply(
    FailureKind.TOO_LARGE, f"The reply has more than {MAX_REPLY_BYTES} bytes: let the workflow return a shorter one."
)


def read_reply(
    body: bytes, content_type: str | None, *, stream: Stream | None = None, secrets: tuple[str, ...] = ()
) -> Reply | NoReply:
    """Return the reply that a successful answer, or a callback, carries, or why it carries none.

    `stream` is the answer where it was read as a stream already; explanations that quote it tell none of `secrets`.
    """
    media_type, charset = _media_type(content_type)
    if media_type.startswith(_BINARY):
        return _NOT_TEXT
    if stream is None:
        stream = whole_stream(body)
    return _read_text(body, media_type, charset) if stream is None else _streamed(stream, secrets)


def _read_text(body: bytes, media_type: str, charset: str) -> Reply | NoReply:
    text = body.decode(charset, "replace").removeprefix("\ufeff")
    if not text.strip():
        return _EMPTY
    is_json = media_type == "application/json" or media_type.endswith("+json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _MALFORMED if is_json else _reply(text)
    if not is_json and not isinstance(value, dict | list):
        return _reply(text)
    return _from_json(value)


def _from_json(value: object) -> Reply | NoReply:
    if value is None or value in ({}, []):
        return _EMPTY
    text = _text(value, _DEEPEST)
    if text is None:
        return _WITHOUT_FIELD
    if isinstance(value, dict) and text in _N8N_SAYS:
        return _N8N_SAYS[text]
    return _reply(text)


def _text(value: object, levels: int) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if levels == 0:
        return None
    if isinstance(value, dict):
        found = next((value[key] for key in REPLY_KEYS if value.get(key) is not None), None)
        return _text(found, levels - 1)
    if isinstance(value, list):
        texts = [text for item in value if (text := _text(item, levels - 1)) is not None]
        return "\n".join(texts) if len(texts) == len(value) else None
    return None


def _reply(text: str) -> Reply | NoReply:
    text = storable(text)
    if not text.strip():
        return _EMPTY
    if len(text) * 4 > MAX_REPLY_BYTES and len(text.encode()) > MAX_REPLY_BYTES:
        return _TOO_LARGE
    return Reply(text)


def _streamed(stream: Stream, secrets: tuple[str, ...]) -> Reply | NoReply:
    if stream.failed:
        return NoReply(FailureKind.WORKFLOW_ERROR, _stream_error(without_secrets(stream.error, secrets)))
    if stream.too_large:
        return _TOO_LARGE
    if stream.malformed:
        return _BAD_STREAM
    return _reply(stream.text) if stream.ended else _UNFINISHED_STREAM


def _stream_error(told: str) -> str:
    said = f" (n8n says: {told[:300]})" if told.strip() else ""
    return f"The workflow failed while it streamed its reply{said}: look at its executions in n8n."


@lru_cache(256)
def _media_type(content_type: str | None) -> tuple[str, str]:
    media_type, _, parameters = (content_type or "").lower().partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset":
            return media_type.strip(), _CHARSETS.get(value.strip("\"' "), "utf-8")
    return media_type.strip(), "utf-8"
