"""What Kafka told lately, for clients that come back: a window of its log, bounded in records and bytes. No I/O."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from services.api_gateway.live.frames import event
from services.api_gateway.live.positions import Offsets
from services.contracts.events import ReplyDelta, SessionChanged
from services.contracts.session import SessionStatus

MOST_CHANGES = 20_000
MOST_CHANGE_BYTES = 24 * 1024 * 1024
MOST_DELTAS = 20_000
MOST_DELTA_BYTES = 8 * 1024 * 1024
_BEFORE_ROW, _AFTER_ROW = len(b"event: session\ndata: "), -len(b"\n\n")
_NOT_OF_SESSIONS = {"event_id", "occurred_at", "previous_status"}


class Told(NamedTuple):
    """What a change says of its session, and the event that tells it to clients."""

    session_id: str
    user_id: str
    version: int
    status: SessionStatus
    before: SessionStatus | None
    frame: bytes
    """The event that tells the session."""

    @property
    def row(self) -> bytes:
        """The session as JSON, as answers have it."""
        return self.frame[_BEFORE_ROW:_AFTER_ROW]

    @property
    def left(self) -> bytes:
        """The event for those of whose list it was, and is no more."""
        return event("left", {"sessionId": self.session_id, "version": self.version, "status": self.status})


class Change:
    """One record of the sessions topic. It is read when somebody asks what it tells, and once."""

    __slots__ = ("_read", "_told", "_value", "at", "offset", "partition", "session_id", "size")

    def __init__(self, partition: int, offset: int, at: float, session_id: str, value: bytes) -> None:
        self.partition = partition
        self.offset = offset
        self.at = at
        """When it was published, in Unix seconds."""
        self.session_id = session_id
        self.size = len(value)
        self._value = value
        self._told: Told | None = None
        self._read = False

    @property
    def told(self) -> Told | None:
        """What it tells; None where it is not what a tracker publishes."""
        if not self._read:
            self._told = _told(self._value)
            self._value = b""
            self._read = True
        return self._told


def _told(value: bytes) -> Told | None:
    try:
        changed = SessionChanged.model_validate_json(value)
    except ValidationError:
        return None
    columns = changed.model_dump(by_alias=True, exclude=_NOT_OF_SESSIONS)
    return Told(
        session_id=str(changed.session_id),
        user_id=changed.user_id,
        version=changed.version,
        status=changed.status,
        before=changed.previous_status,
        frame=event("session", {"id": changed.session_id, **columns}),
    )


class RecentChanges:
    """The last changes of all partitions, in the order in which they were read."""

    def __init__(self, most: int = MOST_CHANGES, most_bytes: int = MOST_CHANGE_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._changes: deque[Change] = deque()
        self._bytes = 0
        self._begins: list[int] = []
        self._ends: list[int] = []

    def begin(self, offsets: Sequence[int]) -> None:
        """Forget everything: what follows is read from these offsets on."""
        self._changes.clear()
        self._bytes = 0
        self._begins, self._ends = list(offsets), list(offsets)

    @property
    def ends(self) -> Offsets:
        """The offsets that come next."""
        return tuple(self._ends)

    def add(self, change: Change) -> bool:
        """Keep the change, at the cost of the oldest; return False where records are missing before it."""
        if change.offset != self._ends[change.partition]:
            return False
        self._ends[change.partition] = change.offset + 1
        self._changes.append(change)
        self._bytes += change.size
        while len(self._changes) > self._most or self._bytes > self._most_bytes:
            oldest = self._changes.popleft()
            self._bytes -= oldest.size
            self._begins[oldest.partition] = oldest.offset + 1
        return True

    def since(self, known: Offsets) -> list[Change] | None:
        """Return what came after these offsets, none of which may be ahead; None where some of it is gone."""
        if any(offset < begin for offset, begin in zip(known, self._begins, strict=True)):
            return None
        count = sum(self._ends) - sum(known)
        return [*reversed([*self._last(known, count)])]

    def _last(self, known: Offsets, count: int) -> Iterator[Change]:
        changes = reversed(self._changes)
        while count:
            change = next(changes)
            if change.offset >= known[change.partition]:
                count -= 1
                yield change


class Delta(NamedTuple):
    """One record of the deltas topic."""

    offset: int
    at: float
    session_id: str
    value: bytes

    def read(self) -> tuple[str, bytes] | None:
        """Return whose session it is and the event that tells it; None where it is not what a dispatcher publishes."""
        try:
            delta = ReplyDelta.model_validate_json(self.value)
        except ValidationError:
            return None
        return delta.user_id, event("delta", {"attempt": delta.attempt, "index": delta.index, "text": delta.text})


class RecentDeltas:
    """The last pieces of replies, by session."""

    def __init__(self, most: int = MOST_DELTAS, most_bytes: int = MOST_DELTA_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._deltas: deque[Delta] = deque()
        self._bytes = 0
        self._of_sessions: dict[str, deque[Delta]] = {}

    def add(self, delta: Delta) -> None:
        """Keep the piece, at the cost of the oldest."""
        self._deltas.append(delta)
        self._of_sessions.setdefault(delta.session_id, deque()).append(delta)
        self._bytes += len(delta.value)
        while len(self._deltas) > self._most or self._bytes > self._most_bytes:
            self._drop_oldest()

    def of(self, session_id: str, since: int) -> list[Delta]:
        """Return the session's pieces from this offset on."""
        return [delta for delta in self._of_sessions.get(session_id, ()) if delta.offset >= since]

    def _drop_oldest(self) -> None:
        oldest = self._deltas.popleft()
        self._bytes -= len(oldest.value)
        others = self._of_sessions[oldest.session_id]
        others.popleft()
        if not others:
            del self._of_sessions[oldest.session_id]
