"""What a call of a webhook brings back: an answer, or what happened instead. No I/O."""

from dataclasses import dataclass, field
from enum import Enum

from services.contracts.streams import Stream
from services.webhook_dispatcher.course import Course


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, its body read to the end; of a stream, `body` is the beginning."""

    status: int
    body: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    retry_after: str | None = None
    execution_header: str | None = None
    stream: Stream | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What the call carried and must not be told if the answer repeats it."""


class Trouble(Enum):
    """What happened instead of a whole answer."""

    NOT_RESOLVED = "not resolved"
    NOT_CONNECTED = "not connected"
    TLS_FAILED = "tls failed"
    ADDRESS_REFUSED = "address refused"
    NOT_IN_TIME = "not in time"
    LOST = "lost"
    TOO_LARGE = "too large"
    NOT_HTTP = "not http"
    NO_CREDENTIALS = "no credentials"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A call without a whole answer; `detail` is a half-sentence without secrets, empty where there is none."""

    trouble: Trouble
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of a webhook: what came of it, and when."""

    outcome: Answer | NoAnswer
    course: Course
    duration_ms: int

    @property
    def status(self) -> int | None:
        """The HTTP status, None without a whole answer."""
        return self.outcome.status if isinstance(self.outcome, Answer) else None
