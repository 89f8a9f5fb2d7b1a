"""Looks at dead letters: those that nobody has decided on."""

from collections import Counter
from collections.abc import Sequence

from services.commands.checkup.findings import Finding, notice, well
from services.commands.letters.reading import read_letters
from services.commands.letters.selection import Choice, Letter
from services.commands.wording import counted
from services.runtime.dead_letter_tools import KafkaUnavailable
from services.runtime.settings import KafkaSettings, PostgresSettings

_CHECK = "dead-letters"


async def check_letters(kafka: KafkaSettings, postgres: PostgresSettings) -> list[Finding]:
    """Return what is found of dead letters; nothing where Kafka does not answer, which is told of Kafka itself."""
    try:
        found, _ = await read_letters(kafka, postgres, Choice())
    except KafkaUnavailable:
        return []
    return [letters([letter for letter in found if letter.is_open])]


def letters(undecided: Sequence[Letter]) -> Finding:
    """Return how many letters nobody has replayed or dropped, by reason."""
    if not undecided:
        return well(_CHECK, "there is none that nobody has decided on.", open=0)
    reasons = Counter(letter.stored.reason for letter in undecided)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    step = "see `chat-sessions dead-letters list`, correct what refused them, then replay them, or drop them."
    return notice(_CHECK, f"{counted(len(undecided), 'letter')} undecided: {told}.", step, open=len(undecided))
