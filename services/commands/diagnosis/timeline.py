"""A session's timeline, in lines for people. Pure."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime

from services.commands.diagnosis.facts import Entry
from services.commands.diagnosis.words import moment
from services.commands.wording import shown

_TIMES = {"asOf", "retryAt", "deadlineAt"}
_LONGEST_VALUE = 200


def timeline_lines(timeline: Sequence[Entry], error_message: str | None) -> list[str]:
    """A session's timeline, one line an entry: when (UTC), what, and whatever else its event tells.

    The date stands where it changes. What goes without saying is left out: that an event came in time, or was no dry
    run, and an error message that was told before: `error_message` was.
    """
    return list(_lines(timeline, error_message))


def _lines(timeline: Sequence[Entry], error_message: object) -> Iterator[str]:
    day: date | None = None
    messages = {error_message}
    for entry in timeline:
        at = moment(entry.get("at"))
        when = str(entry.get("at")) if at is None else _short(at, day)
        day = day if at is None else at.date()
        yield "  ".join(["", when, str(entry.get("type")), *_details(entry, messages)])
        messages.add(entry.get("errorMessage"))


def _details(entry: Entry, messages: set[object]) -> Iterator[str]:
    if entry.get("late") is True:
        yield "late"
    for name, value in entry.items():
        repeated = (name == "errorMessage" and value in messages) or (name == "asOf" and value == entry.get("at"))
        if name in {"at", "type", "late"} or value is None or (name, value) == ("dryRun", False) or repeated:
            continue
        at = moment(value) if name in _TIMES else None
        yield f"{name}={shown(str(value), _LONGEST_VALUE) if at is None else _short(at, at.date()).strip()}"


def _short(at: datetime, day: date | None) -> str:
    time = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
    return f"{'' if at.date() == day else at.date().isoformat():10} {time}"
