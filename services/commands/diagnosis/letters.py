"""What dead letters of a session's records mean for it, and what to do about them. Pure."""

from collections.abc import Sequence

from services.commands.diagnosis.facts import Facts, FoundLetter
from services.commands.diagnosis.words import LONGEST, Verdict, shown_error
from services.commands.wording import listed, shown
from services.contracts.topics import CONTROL, DISPATCHER_GROUP, MESSAGES, TRACKER_GROUP

_OF_RELEASES = {"unknown-type"}
"""What another release may know; `malformed` too, where the system itself wrote the record."""
_OF_PUBLISHERS = {
    "characters": "leave those characters out",
    "dropped-month": "use the time of its own clock in the session id",
    "erased-user": "name a user",
    "id-size": "shorten its ids",
    "identity-mismatch": "give each session an id of its own",
    "session-id-ahead": "set its clock right",
    "session-id-past": "set its clock right",
    "time-ahead": "set its clock right",
    "time-past": "set its clock right",
    "too-large": "shorten it",
}
"""What a publisher has to do; where a reason is not here, docs/publishing.md says it."""


def stuck(facts: Facts, name: str) -> Verdict | None:
    """Return the verdict where nobody has decided on dead letters of the session, of whichever groups."""
    by_cause: dict[tuple[str, str, str], list[FoundLetter]] = {}
    for letter in facts.letters:
        if letter.open:
            by_cause.setdefault((letter.topic, letter.reason, letter.error), []).append(letter)
    if not by_cause:
        return None
    told = " and ".join(
        f"{_groups(letters)} could not use its record of {topic}, {reason}: {shown_error(error)}"
        for (topic, reason, error), letters in by_cause.items()
    )
    steps = "; ".join(_step(letters) for letters in by_cause.values())
    return Verdict("dead-lettered", f"{name} is stuck: {told}; {steps}.")


def given_up(facts: Facts, name: str, group: str) -> Verdict | None:
    """Return the verdict where this group refused the session's message, and somebody dropped the dead letter.

    None where any of its records may still be used: one that was sent or replayed since, and was not refused.
    """
    own = [letter for letter in facts.letters if (letter.group, letter.topic) == (group, MESSAGES.name)]
    refused = {letter.place for letter in own}
    others = [
        record
        for record in facts.records
        if record.type == "MessageSent" and record.for_group in {None, group} and record.place not in refused
    ]
    if not own or own[-1].dropped_by is None or others:
        return None
    last = own[-1]
    alike = [one for one in facts.letters if one.dropped_by is not None and one.reason == last.reason]
    told = f"{name} had its message refused by {_groups(alike)}, {last.reason}: {shown_error(last.error)}"
    who = shown(last.dropped_by or "", LONGEST)
    why = "" if last.because is None else f" because '{shown_error(last.because)}'"
    dropped = "its dead letter" if len(alike) == 1 else "its dead letters"
    return Verdict("letter-dropped", f"{told}; {who} dropped {dropped}{why}, so {_COMES[group]}.")


_COMES = {
    TRACKER_GROUP: "nothing more will come of it",
    DISPATCHER_GROUP: "nobody will call its persona: cancel it, or the next sweep that finds it too old ends it",
}


def _step(letters: Sequence[FoundLetter]) -> str:
    """Return what to do about letters of one cause: what lies in Kafka cannot be corrected, only used or dropped."""
    ids, reason = " ".join(letter.letter_id for letter in letters), letters[0].reason
    replay = f"run `chat-sessions dead-letters replay {ids}`"
    own = letters[0].topic not in {MESSAGES.name, CONTROL.name}
    if reason in _OF_RELEASES or (own and reason == "malformed"):
        return f"let all processes be of the release that knows it, then {replay}, or drop it if there is none"
    if reason == "refused-by-postgres" or own:
        return f"report it as a bug, and once PostgreSQL and the release are mended, {replay}"
    mend = _OF_PUBLISHERS.get(reason, "mend that, as docs/publishing.md says")
    again = "send it again" + (" with a new session id" if letters[0].topic == MESSAGES.name else "")
    drop = f"run `chat-sessions dead-letters drop {ids} --because WHY`"
    return f"its publisher is to {mend} and {again}; then {drop}: a replay would fail again"


def _groups(letters: Sequence[FoundLetter]) -> str:
    return listed(sorted({letter.group for letter in letters}))
