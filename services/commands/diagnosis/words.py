"""What the explanations of a session have in common: the verdict, and words for readers, times and texts. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from services.commands.diagnosis.facts import Entry, Facts, FoundRecord, Reader, Tracked
from services.commands.wording import counted, shown

LONGEST = 200
SOON_SECONDS = 10.0
"""What clocks, and what waits to be done, may be apart."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened. `code` is stable, for scripts; the sentence is for people."""

    code: str
    sentence: str


def shown_error(error: str) -> str:
    """Return foreign text without its last stop, cut, and harmless to a terminal."""
    cut = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in error)
    return (cut if len(cut) <= LONGEST else f"{cut[:LONGEST]}…").rstrip(".")


def behind(process: str, reader: Reader | None) -> str:
    """Return how far the readers of the session's partition are, as a clause."""
    if reader is None:
        return f"how far the {process} is is not known"
    if reader.members == 0:
        return f"no {process} runs, which leaves {counted(reader.lag, 'record')} of its partition waiting"
    return f"the {process} is {counted(reader.lag, 'record')} behind in its partition"


def get_going(process: str, reader: Reader | None) -> str:
    """Return what to do about readers that are behind."""
    return f"start a {process}" if reader is not None and reader.members == 0 else f"see the {process}'s health and log"


def first(facts: Facts, kind: str) -> Entry | None:
    """Return the first event of a type that came in time."""
    return next((entry for entry in facts.timeline if entry.get("type") == kind and not entry.get("late")), None)


def persona(session: Tracked) -> str:
    """Return the session's persona, harmless to a terminal."""
    return shown(session.persona_id, 128)


def moment(told: object) -> datetime | None:
    """Return the time that an event tells, in UTC; None where it tells none."""
    try:
        return datetime.fromisoformat(str(told)).astimezone(UTC)
    except ValueError:
        return None


def time_of(when: datetime) -> str:
    """Return a time as sentences have it."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def place(record: FoundRecord) -> str:
    """Return where a record is."""
    return f"{record.topic} partition {record.partition} offset {record.offset}"
