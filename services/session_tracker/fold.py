"""What a batch of events makes of the sessions it names. No I/O: the store reads and writes around it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from services.contracts.events import CancelRequested, MessageSent, TrackedEvent, WebhookFailed, WebhookSucceeded
from services.contracts.ids import derived_id
from services.contracts.session import MessageRole, SessionStatus
from services.session_tracker.lifecycle import Session, apply, opened, same_identity
from services.session_tracker.personal import without_texts


class Arrival(NamedTuple):
    """An event as it arrived: with its record's timestamp, partition and place in the batch."""

    event: TrackedEvent
    recorded_at: datetime
    partition: int
    position: int
    erased_as: str | None = None
    """The id that stands for the event's user, if his data of this session is erased: nothing personal is kept of it.

    None keeps everything.
    """
    trace_id: str | None = None
    """Of a message's record: the session that the message opens has it."""

    @property
    def user_id(self) -> str:
        """The user of a session that the event opens."""
        return self.erased_as or self.event.user_id


class Message(NamedTuple):
    """One message of a session: what the user sent, or what the persona replied."""

    id: UUID
    session_id: UUID
    role: MessageRole
    content: str | None
    created_at: datetime


class Transition(NamedTuple):
    """A session before and after a batch; `previous` is None where the batch opened it."""

    session: Session
    previous: SessionStatus | None
    shard: int


@dataclass(slots=True)
class Folded:
    """What the events of one session came to."""

    session: Session
    previous: SessionStatus | None
    shard: int
    changed: bool = False
    late: list[TrackedEvent] = field(default_factory=list)
    refused: list[Arrival] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    cancels: list[tuple[CancelRequested, bool]] = field(default_factory=list)
    """Each cancel, and whether it ended the session."""
    failure: WebhookFailed | None = None
    """What ended the session as FAILED, if one of the events did."""

    @property
    def transition(self) -> Transition:
        """The session before and after its events."""
        return Transition(self.session, self.previous, self.shard)


def by_session(arrivals: Iterable[Arrival]) -> Iterator[tuple[UUID, list[Arrival]]]:
    """Yield each session's arrivals, sessions in id order, events in the order in which they apply."""
    # Ids as whole numbers: Python compares those by itself, and UUIDs through a method.
    ordered = sorted(arrivals, key=lambda a: (a.event.session_id.int, a.recorded_at, a.event.event_id.int))
    for session_id, group in groupby(ordered, key=lambda a: a.event.session_id):
        yield session_id, list(group)


def fold(session: Session | None, arrivals: Sequence[Arrival]) -> Folded:
    """Apply one session's events, in order, to what is known of it.

    Where nothing is known, the first event says to whom the session belongs. Events that name another conversation,
    persona or user are refused.
    """
    folded = Folded(session or _opened(arrivals[0]), session and session.status, arrivals[0].partition)
    for arrival in arrivals:
        event, erased_as = arrival.event, arrival.erased_as
        if not same_identity(folded.session, event, erased_as):
            folded.refused.append(arrival)
            continue
        after = apply(folded.session, event)
        if after is None:
            folded.late.append(event)
        else:
            folded.session, folded.changed = after if erased_as is None else without_texts(after), True
            if arrival.trace_id is not None and after.trace_id is None:
                folded.session = folded.session._replace(trace_id=arrival.trace_id)
            folded.messages.extend(_messages(arrival))
            if type(event) is WebhookFailed:
                folded.failure = event
        if type(event) is CancelRequested:
            folded.cancels.append((event, after is not None))
    return folded


def _opened(arrival: Arrival) -> Session:
    session = opened(arrival.event)
    return session if arrival.erased_as is None else session._replace(user_id=arrival.erased_as)


def _messages(arrival: Arrival) -> Iterator[Message]:
    # Derived ids: one message a role and session, however often it is told.
    event = arrival.event
    content: str | None
    if type(event) is MessageSent:
        role, content = MessageRole.USER, event.message
    elif type(event) is WebhookSucceeded:
        role, content = MessageRole.PERSONA, event.reply
    else:
        return
    if arrival.erased_as is not None:
        content = None
    yield Message(derived_id(event.session_id, role), event.session_id, role, content, event.occurred_at)
