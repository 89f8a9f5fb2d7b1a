"""Looks at dead letters: those that nobody has decided on."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from services.commands.checkup.findings import Finding, notice, well
from services.commands.letters.reading import read_letters
from services.commands.letters.selection import Choice, Letter
from services.commands.wording import counted, duration
from services.runtime.dead_letter_tools import KafkaUnavailable
from services.runtime.settings import KafkaSettings, PostgresSettings

_CHECK = "dead-letters"
_SECONDS = 8.0


async def check_letters(kafka: KafkaSettings, postgres: PostgresSettings) -> list[Finding]:
    """Return what is found of dead letters; nothing where Kafka does not answer, which is told of Kafka itself."""
    try:
        async with asyncio.timeout(_SECONDS):
            found, _ = await read_letters(kafka, postgres, Choice())
    except KafkaUnavailable:
        return []
    except TimeoutError:
        step = "see the findings of kafka and postgres; `chat-sessions dead-letters list` is more patient."
        return [notice(_CHECK, f"they could not be read within {_SECONDS:.0f} s.", step)]
    return [letters([letter for letter in found if letter.is_open], datetime.now(UTC))]


def letters(undecided: Sequence[Letter], now: datetime) -> Finding:
    """Return how many letters nobody has replayed or dropped, by the reason and the group that could not use them."""
    if not undecided:
        return well(_CHECK, "there is none that nobody has decided on.", open=0)
    reasons = Counter(letter.stored.reason for letter in undecided)
    told = ", ".join(f"{count} {reason} ({_groups(undecided, reason)})" for reason, count in reasons.most_common())
    newest = max(letter.stored.written_at for letter in undecided)
    told += f"; the newest {duration(max(0.0, (now - newest).total_seconds()))} ago"
    step = "see `chat-sessions dead-letters list`; what a publisher did wrong is sent again by it, and dropped here; "
    step += "replay the others once their cause is gone (docs/runbook.md, DeadLetters)."
    return notice(_CHECK, f"{counted(len(undecided), 'letter')} undecided: {told}.", step, open=len(undecided))


def _groups(undecided: Sequence[Letter], reason: str) -> str:
    """Return which groups refused letters for a reason, with how many each where there are several."""
    groups = Counter(letter.stored.group for letter in undecided if letter.stored.reason == reason)
    return ", ".join(group if len(groups) == 1 else f"{group} {count}" for group, count in groups.most_common())
