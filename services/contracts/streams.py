"""n8n's streaming answers, read as they arrive: lines of JSON with begin, item, end, error and keepalive. No I/O.

Every node that streams sends its own begin and end; a stream has ended when nothing that began is open.
"""

import json
from typing import Any

from services.contracts.admission import MAX_REPLY_BYTES, storable

_CHUNK_TYPES = frozenset({"begin", "item", "end", "error", "keepalive"})
REPLY_KEYS = ("reply", "output", "text", "message")
"""Where an object keeps its reply, the first of these that is there and not null; n8n's own lines have none of them."""
MAX_LINE_BYTES = 512 * 1024
"""The largest reply in one item, and room for the JSON around it."""
MAX_STREAM_BYTES = 64 * 1024 * 1024
"""Of all lines: the largest reply word by word, each with its node's name and id."""

_HALF = ("\ud800", "\udbff")
"""The first halves of characters that JavaScript writes as two, perhaps in two items."""


class Stream:
    """Assembles a stream. Memory stays within the largest reply and the largest line, however much arrives."""

    def __init__(self) -> None:
        self.ended = False
        """An end came, and nothing that began is open."""
        self.failed = False
        """n8n told of an error; `error` is what it said, perhaps nothing."""
        self.error = ""
        self.malformed = False
        self.too_large = False
        self.execution_id: object = None
        """As a line told it, in `executionId` or in its `metadata`."""
        self._pieces: list[str] = []
        self._text_bytes = self._bytes = self._open = 0
        self._line = bytearray()
        self._half = ""

    @property
    def over(self) -> bool:
        """True when it cannot become a reply any more: the rest need not be read."""
        return self.failed or self.malformed or self.too_large

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._pieces)

    def feed(self, data: bytes) -> str:
        """Take the next bytes; return what they add to the text."""
        self._bytes += len(data)
        *lines, rest = data.split(b"\n")
        before = len(self._pieces)
        for line in lines:
            self._take_line(bytes(self._line) + line)
            self._line.clear()
        self._line += rest
        if len(self._line) > MAX_LINE_BYTES or self._bytes > MAX_STREAM_BYTES:
            self.too_large = True
        return "".join(self._pieces[before:])

    def close(self) -> str:
        """Take the end of the bytes: a last line may lack its line feed. Return what that adds to the text."""
        before = len(self._pieces)
        line = bytes(self._line)
        self._line.clear()
        if _parsed(line) is not None:
            self._take_line(line)
        elif line.strip():
            self.ended = False  # it broke off
        if self._half:
            self._half = ""
            self._add("\ufffd")
        return "".join(self._pieces[before:])

    def _take_line(self, line: bytes) -> None:
        if self.over or not line.strip():
            return
        chunk = _parsed(line)
        if chunk is None:
            self.malformed = True
            return
        if self.execution_id is None:
            self.execution_id = _execution_id(chunk)
        kind, content = chunk.get("type"), chunk.get("content")
        if kind == "begin":
            self._open, self.ended = self._open + 1, False
        elif kind == "end":
            self._open = max(0, self._open - 1)
            self.ended = self._open == 0
        elif kind == "error":
            self.failed, self.error = True, content if isinstance(content, str) else ""
        elif kind == "item" and content is not None:
            self._say(content if isinstance(content, str) else json.dumps(content))

    def _say(self, content: str) -> None:
        text = self._half + content
        self._half = text[-1] if text and _HALF[0] <= text[-1] <= _HALF[1] else ""
        if self._half:
            text = text[:-1]
        whole = text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._add(storable(whole))

    def _add(self, text: str) -> None:
        self._text_bytes += len(text.encode())
        if self._text_bytes > MAX_REPLY_BYTES:
            self.too_large = True
        elif text:
            self._pieces.append(text)


def opens_stream(line: bytes) -> bool:
    """Tell whether an answer with this first line is a stream: a reply may have a `type` of its own."""
    if b'"type"' not in line:  # most answers are none, and need not be parsed to see it
        return False
    chunk = _parsed(line)
    if chunk is None or not isinstance(kind := chunk.get("type"), str) or kind not in _CHUNK_TYPES:
        return False
    return not any(key in chunk for key in REPLY_KEYS)


def whole_stream(body: bytes) -> Stream | None:
    """Return the stream that a whole body is, None where it is something else."""
    if not opens_stream(body.lstrip().split(b"\n", 1)[0]):
        return None
    stream = Stream()
    stream.feed(body)
    stream.close()
    return stream


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _execution_id(chunk: dict[str, Any]) -> object:
    metadata = chunk.get("metadata")
    return chunk.get("executionId") or (metadata.get("executionId") if isinstance(metadata, dict) else None)
