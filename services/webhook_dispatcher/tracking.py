"""What the dispatcher keeps in mind of one partition: pure bookkeeping, no I/O.

`Offsets` knows from where to go on, `KnownSessions` which sessions need no call, `Message` what is under way; how much
may be held is in `window`.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from services.contracts import MessageSent
from services.contracts.callbacks import Callback
from services.contracts.events import Identity
from services.contracts.ids import id_milliseconds
from services.runtime.tracing import Span
from services.webhook_dispatcher.course import Course

MOST_KNOWN = 50_000
"""Sessions remembered a partition."""

_NOBODY: frozenset[Identity] = frozenset()


class Phase(Enum):
    """What a message is doing at the moment."""

    QUEUED = "queued"
    """Behind earlier messages of its conversation, or about to begin."""
    WAITING = "waiting"
    """For its persona, a slot, its breaker or its next attempt."""
    CALLING = "calling"
    PUBLISHING = "publishing"
    """Its result is on its way to Kafka: too late to cancel."""


@dataclass(slots=True, eq=False)
class Message:
    """A message between its arrival and its end."""

    event: MessageSent
    offset: int
    span: Span
    """Of its delivery, from its arrival to its end."""
    phase: Phase = Phase.QUEUED
    cancelled: bool = False
    overloaded: bool = False
    """Its persona holds too much and does not get on: it is failed in its turn, without another call."""
    released: bool = False
    """Its partition is going to another process: no new call may begin."""
    attempt: int = 0
    """The number of its last call, from 1; 0 before the first."""
    course: Course | None = None
    """Of that call."""
    call_span: Span | None = None
    """Of that call."""
    callback: Callback | None = None
    """What that call's callback URL stands for; None where the answer is the reply."""

    @property
    def session_id(self) -> UUID:
        """The session that the message opened."""
        return self.event.session_id

    @property
    def traceparent(self) -> str:
        """What continues the trace from the delivery."""
        return self.span.traceparent

    @property
    def sent_ms(self) -> int:
        """The session id's own time, Unix milliseconds."""
        return id_milliseconds(self.event.session_id)


class Offsets:
    """Which records of a partition are not finished; they arrive in order and finish in any."""

    def __init__(self) -> None:
        self._unfinished: set[int] = set()
        self._order: deque[int] = deque()
        """Ascending; the first is unfinished."""
        self._next: int | None = None

    def __len__(self) -> int:
        """Return how many are not finished."""
        return len(self._unfinished)

    def take(self, offset: int) -> bool:
        """Begin with a record; False if it was taken before."""
        if self._next is not None and offset < self._next:
            return False
        self._unfinished.add(offset)
        self._order.append(offset)
        self._next = offset + 1
        return True

    def finish(self, offset: int) -> None:
        """The record needs no more work."""
        self._unfinished.remove(offset)
        while self._order and self._order[0] not in self._unfinished:
            self._order.popleft()

    @property
    def span(self) -> int:
        """How many offsets lie between the lowest unfinished record and the last one taken, both included."""
        first = self.committable()
        return 0 if first is None or self._next is None else self._next - first

    def lag(self, offset: int) -> int:
        """Return how many offsets lie between this one and the last one taken, both included."""
        return 0 if self._next is None else self._next - offset

    def committable(self) -> int | None:
        """Return the lowest unfinished offset, from which a restart would go on; None before the first record."""
        return self._order[0] if self._order else self._next


class KnownSessions:
    """Sessions of a partition that need no call: ended, accepted or cancelled. Bounded.

    Knows about every session whose id lies in an interval of time, and says by `covers` which these are.
    """

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._ended: dict[UUID, frozenset[Identity] | None] = {}
        self._from_ms = 0
        self._until_ms: int | None = 0
        self._target_ms: int | None = None

    def __len__(self) -> int:
        """Return how many sessions are remembered."""
        return len(self._ended)

    def begin_reading(self, from_ms: int, target_ms: int) -> None:
        """Forget everything: what happened to sessions from `from_ms` on is told anew, oldest events first.

        When there is too much of it, sessions near `target_ms` are the ones to be known.
        """
        self._ended.clear()
        self._from_ms, self._until_ms, self._target_ms = from_ms, None, target_ms

    def end_reading(self) -> None:
        """Everything up to now was told; from here on each end is added as it happens."""
        self._target_ms = None

    def covers(self, session_ms: int) -> bool:
        """Tell whether all is known about sessions with ids of this time."""
        return self._from_ms <= session_ms and (self._until_ms is None or session_ms < self._until_ms)

    def add(self, session_id: UUID, identity: Identity | None) -> None:
        """Remember that the session needs no call; with an identity, only if it is the session's own."""
        if not self.covers(id_milliseconds(session_id)):
            return
        known = self._ended.get(session_id, _NOBODY)
        self._ended[session_id] = None if identity is None or known is None else known | {identity}
        if len(self._ended) > self._most:
            self._shrink()

    def needs_no_call(self, session_id: UUID, identity: Identity) -> bool:
        """Tell whether the session is known to have ended, been accepted or been cancelled."""
        known = self._ended.get(session_id, _NOBODY)
        return known is None or identity in known

    def _shrink(self) -> None:
        times = sorted(id_milliseconds(session_id) for session_id in self._ended)
        middle = times[len(times) // 2]
        if self._target_ms is None:
            self._from_ms = middle + 1
        elif middle > self._target_ms:
            self._until_ms = middle
        elif self._from_ms < self._target_ms:
            self._from_ms = self._target_ms
        else:
            self._until_ms = self._target_ms + 1
        self._ended = {key: known for key, known in self._ended.items() if self.covers(id_milliseconds(key))}
