"""How far a call has come, and how long it may stay where it is. Pure; time in monotonic seconds is an argument."""

from dataclasses import dataclass
from enum import Enum


class Limit(Enum):
    """What a call may run out of; the values say so to the persona's owner."""

    CONNECT = "no connection within {seconds:.3g} s"
    FIRST_BYTE = "firstByteSeconds, {seconds:.3g} s, passed before it began to answer"
    IDLE = "idleSeconds, {seconds:.3g} s, passed without more of its answer"
    TOTAL = "{seconds:.3g} s"


@dataclass(slots=True)
class Course:
    """One call of a webhook, from `began` on."""

    began: float
    total_seconds: float
    first_byte_seconds: float | None = None
    """From the connection to the answer's headers; None: only the total counts."""
    idle_seconds: float | None = None
    """Between two pieces of the answer's body; None: only the total counts."""
    connected_at: float | None = None
    answered_at: float | None = None
    heard_at: float | None = None
    """When the last piece of the body came."""
    execution_id: str | None = None
    """Of n8n, as soon as the answer has told it."""

    def connected(self, now: float) -> None:
        """A connection is there, new or kept from an earlier call."""
        self.connected_at = now

    def answered(self, now: float) -> None:
        """The headers of the answer are there."""
        self.answered_at = self.heard_at = now

    def heard(self, now: float) -> None:
        """A piece of the body is there."""
        self.heard_at = now

    @property
    def connect_ms(self) -> int | None:
        """Milliseconds from the beginning to the connection."""
        return self._milliseconds(self.connected_at)

    @property
    def first_byte_ms(self) -> int | None:
        """Milliseconds from the beginning to the headers of the answer."""
        return self._milliseconds(self.answered_at)

    def duration_ms(self, now: float) -> int:
        """Return the milliseconds since the beginning."""
        return max(0, round((now - self.began) * 1000))

    def next_limit(self) -> tuple[float, Limit]:
        """Return when the call is broken off if nothing more happens, and by which limit."""
        total = (self.began + self.total_seconds, Limit.TOTAL)
        if self.heard_at is not None:
            stage = (self.heard_at, self.idle_seconds, Limit.IDLE)
        elif self.connected_at is not None:
            stage = (self.connected_at, self.first_byte_seconds, Limit.FIRST_BYTE)
        else:
            return total[0], Limit.CONNECT
        since, seconds, limit = stage
        return total if seconds is None else min(total, (since + seconds, limit), key=lambda entry: entry[0])

    def limit_text(self, limit: Limit) -> str:
        """Return a half-sentence that says which limit passed."""
        seconds = {Limit.FIRST_BYTE: self.first_byte_seconds, Limit.IDLE: self.idle_seconds}.get(limit)
        return limit.value.format(seconds=self.total_seconds if seconds is None else seconds)

    def _milliseconds(self, moment: float | None) -> int | None:
        return None if moment is None else self.duration_ms(moment)
