"""Reads dead letters from Kafka, and from PostgreSQL what was decided about each."""

from services.commands.letters.dispositions import open_dispositions
from services.commands.letters.selection import Choice, Letter, with_dispositions
from services.commands.target import CommandError
from services.runtime.dead_letter_tools import read_dead_letters
from services.runtime.settings import KafkaSettings, PostgresSettings


async def read_letters(
    kafka: KafkaSettings, postgres: PostgresSettings, choice: Choice
) -> tuple[list[Letter], CommandError | None]:
    """Return the letters that are chosen, oldest first, and why it is not known what was decided about them, if so.

    Raises KafkaUnavailable where they cannot be read.
    """
    stored = filter(choice.takes, await read_dead_letters(kafka, choice.since))
    try:
        async with open_dispositions(postgres) as dispositions:
            return with_dispositions(stored, await dispositions.every()), None
    except CommandError as error:
        return with_dispositions(stored, {}), error
