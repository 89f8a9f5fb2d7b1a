"""Everything that is known of one session, from every side: what its explanation rests on. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.contracts.session import SessionStatus

Entry = Mapping[str, object]
"""One happening of a session: `type`, `at` and `late`, and what its event says beside who and where."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """The session as the tracker committed it."""

    conversation_id: str
    persona_id: str
    status: SessionStatus
    started_at: datetime
    ended_at: datetime | None = None
    last_activity_at: datetime | None = None
    attempts: int = 0
    response_ms: int | None = None
    failure_kind: str | None = None
    error_message: str | None = None
    deadline_at: datetime | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record of the session in Kafka."""

    topic: str
    partition: int
    offset: int
    at: datetime
    type: str
    """The event's name, such as MessageSent."""
    conversation_id: str
    trace_id: str | None = None
    for_group: str | None = None
    """The only group that is to use it, where it is a replay."""

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return self.partition, self.offset


@dataclass(frozen=True, slots=True)
class FoundLetter:
    """A dead letter that names the session."""

    letter_id: str
    topic: str
    group: str
    reason: str
    error: str
    open: bool
    """Whether nobody has replayed or dropped it."""
    place: tuple[int, int] = (0, 0)
    """Partition and offset of the record."""
    dropped_by: str | None = None
    because: str | None = None
    """Why it was dropped."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How far a consumer group is in the session's partition."""

    members: int
    next_offset: int
    """The first record that it has not finished."""
    lag: int


@dataclass(frozen=True, slots=True)
class Silence:
    """A process that does not answer: why, and what to do, as clauses."""

    name: str
    told: str
    step: str


@dataclass(frozen=True, slots=True)
class Persona:
    """What the session's persona is set to."""

    paused: bool
    deadline_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was gathered; `…_away` say in a sentence why a side could not be asked."""

    session_id: UUID
    id_time: datetime | None
    """When the id was minted; None where it is no UUIDv7."""
    now: datetime
    tracked: Tracked | None = None
    timeline: Sequence[Entry] = ()
    records: Sequence[FoundRecord] = ()
    letters: Sequence[FoundLetter] = ()
    """The oldest first."""
    dispatcher: Reader | None = None
    tracker: Reader | None = None
    silent: Sequence[Silence] = ()
    """Dispatchers that are known and do not answer."""
    persona: Persona | None = None
    waits_behind: UUID | None = None
    """An earlier session of the conversation that is ACTIVE."""
    acknowledged_at: datetime | None = None
    """When the gateway wrote down that Kafka has the message; known of those with an Idempotency-Key."""
    asked: bool = False
    """Whether an Idempotency-Key names the session."""
    month_dropped: bool = False
    postgres_away: str | None = None
    kafka_away: str | None = None
    searched_all: bool = True
    """Whether Kafka was looked through wherever the session's records may be."""

    @property
    def message(self) -> FoundRecord | None:
        """The newest record that carries the message: a message may have been sent again."""
        found = [record for record in self.records if record.type == "MessageSent"]
        return max(found, key=lambda record: record.at, default=None)

    @property
    def trace_id(self) -> str | None:
        """The trace of the session: what the tracker kept, else what its records carry."""
        if self.tracked is not None and self.tracked.trace_id is not None:
            return self.tracked.trace_id
        return next((record.trace_id for record in self.records if record.trace_id is not None), None)
