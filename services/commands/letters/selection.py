"""Which dead letters are meant, and what was decided about each. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from services.runtime.dead_letter_tools import StoredDeadLetter

Place = tuple[str, int, datetime]
"""Topic, offset and time of a letter."""

_DURATION = re.compile(r"(\d+)(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class State(StrEnum):
    """What became of a letter. REPLAYING is a replay that was broken off: whether it was published is to be seen."""

    OPEN = "open"
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Disposition:
    """What was decided about a letter, by whom and when."""

    state: State
    decided_by: str
    decided_at: datetime
    because: str | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, with what was decided about it."""

    stored: StoredDeadLetter
    disposition: Disposition | None = None

    @property
    def state(self) -> State:
        """What became of it."""
        if self.disposition is not None:
            return self.disposition.state
        return State.REPLAYED if self.stored.replayed else State.OPEN

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done about it."""
        return self.state in {State.OPEN, State.REPLAYING}


@dataclass(frozen=True, slots=True)
class Choice:
    """Filters that all hold; None lets everything through."""

    topic: str | None = None
    """The topic of the record, not of the letter."""
    group: str | None = None
    reason: str | None = None
    event_type: str | None = None
    """The whole CloudEvents type, or the event's name in it."""
    since: datetime | None = None
    session: str | None = None

    def takes(self, letter: StoredDeadLetter) -> bool:
        """Tell whether a letter is meant."""
        return (
            self.topic in {None, letter.topic}
            and self.group in {None, letter.group}
            and self.reason in {None, letter.reason}
            and (self.event_type is None or self.event_type in _names(letter.event_type))
            and (self.since is None or letter.written_at >= self.since)
            and (self.session is None or letter.names(self.session))
        )


def with_dispositions(letters: Iterable[StoredDeadLetter], dispositions: Mapping[Place, Disposition]) -> list[Letter]:
    """Put the letters and what was decided about them together."""
    return [Letter(letter, dispositions.get(letter.place)) for letter in letters]


def read_since(text: str, now: datetime) -> datetime | None:
    """Return the moment that a person gives as `90m`, `24h`, `7d` or in ISO 8601; None where it is neither."""
    if found := _DURATION.fullmatch(text):
        number, unit = found.groups()
        return now - timedelta(**{_UNITS[unit]: int(number)})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _names(event_type: str | None) -> set[str]:
    """Return what one may call an event type: `chat.MessageSent.v1` is also `MessageSent`."""
    return set() if event_type is None else {event_type, *event_type.split(".")[1:2]}
