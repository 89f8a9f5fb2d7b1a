"""How dead letters are told. Pure."""

from collections.abc import Iterator, Sequence

from services.commands.letters.deciding import Done
from services.commands.letters.selection import Letter, State
from services.commands.wording import counted, listed, shown

_LONGEST = 200
_WIDTH, _LEAST = 160, 18
"""Characters of a line of the list, and so many of its reason at least, whatever the rest takes."""


def letter_lines(letters: Sequence[Letter], every: Sequence[Letter], *, whole: bool = False) -> Iterator[str]:
    """A line for each of `letters`; `every` is where the letters of other groups for the same record are found.

    Of a reason there is what has room in a terminal, unless the `whole` is asked for.
    """
    by_origin: dict[tuple[str, int, int], list[str]] = {}
    for letter in every:
        by_origin.setdefault(letter.stored.origin, []).append(letter.stored.letter_id)
    for letter in letters:
        same = [other for other in by_origin[letter.stored.origin] if other != letter.stored.letter_id]
        # Without the topic, which its own id has too.
        remarks = (
            [f"same as {listed([other.removeprefix(f'{letter.stored.topic}.') for other in same])}"] if same else []
        )
        remarks += ["failed again after a replay"] if letter.stored.failed_again else []
        remarks += [] if letter.state is State.OPEN else [_decision(letter)]
        yield _letter_line(letter, f"  ({'; '.join(remarks)})" if remarks else "", whole=whole)


def letter_details(letter: Letter, *, body: bool) -> Iterator[str]:
    """Everything about one letter; what its record holds only if `body`, for a user may have written it."""
    stored = letter.stored
    yield f"Dead letter   {stored.letter_id}, of {stored.written_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"Record        {stored.topic} partition {stored.partition} offset {stored.offset}"
    yield f"Refused by    {stored.group}"
    yield f"Reason        {stored.reason}: {stored.error}"
    yield f"State         {_decision(letter)}"
    yield f"Type          {stored.event_type or 'none'}"
    yield f"Session       {stored.subject or 'none'}"
    yield f"Key           {_text(stored.key)}"
    for name, value in stored.headers:
        yield f"Header        {shown(name, 64)} = {_text(value)}"
    size = f"{len(stored.value or b'')} bytes" if stored.omitted is None else f"too large to be kept ({stored.omitted})"
    yield f"Value         {size}" + ("" if body else "; --body shows it")
    if body and stored.value is not None:
        yield stored.value.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()


def replayed(done: Done) -> Iterator[str]:
    """What a replay did."""
    count = len(done.decided)
    if count == 0 and not done.found and not done.before:
        yield "No dead letter is left to replay."
    if count:
        again = "if it fails again, it appears as a new letter"
        several = "those that fail again appear as new letters"
        yield f"{counted(count, 'record')} replayed; {again if count == 1 else several}."
    if done.found:
        yield f"{counted(len(done.found), 'record')} published by a replay that was broken off: now it is noted."
    yield from _before(done)


def dropped(done: Done) -> Iterator[str]:
    """What a drop did."""
    if not done.decided and not done.before:
        yield "No dead letter is left to drop."
    if done.decided:
        yield f"{counted(len(done.decided), 'dead letter')} dropped: nothing was deleted, and nobody is reminded of it."
    yield from _before(done)


def summary(letters: Sequence[Letter]) -> str:
    """How many letters of how many records."""
    records = len({letter.stored.origin for letter in letters})
    of_records = "" if records == len(letters) else f" of {counted(records, 'record')}"
    return f"{counted(len(letters), 'dead letter')}{of_records}."


def _before(done: Done) -> Iterator[str]:
    for letter in done.before:
        yield f"{letter.stored.letter_id} is left as it is: {_decision(letter)}."


def _letter_line(letter: Letter, remarks: str, *, whole: bool) -> str:
    stored = letter.stored
    key = "no key" if stored.key is None else f"key {shown(stored.key.decode('utf-8', 'replace'), 64)}"
    whose = key if stored.subject is None else shown(stored.subject, 64)
    told = f"{stored.letter_id}  {stored.written_at:%m-%d %H:%M}  {whose}  {stored.reason}: "
    room = None if whole else max(_LEAST, _WIDTH - len(told) - len(remarks))
    return told + _short(stored.error, room) + remarks


def _short(error: str, longest: int | None) -> str:
    """What is wrong first, each complaint once, as far as there is room in a list, if there is a limit."""
    of_complaint: dict[str, list[str]] = {}
    for part in error.split("; "):
        field, colon, complaint = part.rpartition(": ")
        of_complaint.setdefault(complaint, []).extend([field] if colon else [])
    parts = (f"{', '.join(fields)}: {told}" if fields else told for told, fields in of_complaint.items())
    short = "; ".join(parts)
    return short if longest is None or len(short) <= longest else f"{short[: longest - 1].rstrip(';, ')}…"


def _decision(letter: Letter) -> str:
    decision = letter.disposition
    if decision is None:
        return letter.state.value
    because = "" if decision.because is None else f", because {shown(decision.because, _LONGEST)}"
    return f"{letter.state} by {shown(decision.decided_by, 64)} at {decision.decided_at:%Y-%m-%d %H:%M:%S} UTC{because}"


def _text(value: bytes | None) -> str:
    return "none" if value is None else shown(value.decode("utf-8", "backslashreplace"), _LONGEST)
