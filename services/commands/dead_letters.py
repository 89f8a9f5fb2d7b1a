"""`chat-sessions dead-letters`: what services could not use, and another try."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.target import CommandError, DataDirectoryOption, choose_target

if TYPE_CHECKING:
    from services.runtime.dead_letter_tools import StoredDeadLetter

app = typer.Typer(no_args_is_help=True, help="List and replay the records that a service could not use.")

Group = Annotated[str | None, typer.Option(help="Only those of this consumer group.", show_default=False)]
LetterIds = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.", show_default=False)]


@app.command("list")
def list_letters(
    group: Group = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Show dead letters, the newest last: id, when, where from, why."""
    choose_target(data_dir)
    letters = _read(group)
    for letter in letters[-limit:]:
        typer.echo(
            f"{letter.letter_id}  {letter.written_at:%Y-%m-%d %H:%M:%S}  from {letter.topic} partition "
            f"{letter.partition} offset {letter.offset}  {letter.reason}: {letter.error}"
        )
    typer.echo(f"{min(limit, len(letters))} of {len(letters)} dead letters.")


@app.command("replay")
def replay_letters(
    letter_ids: LetterIds = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, or all of --group.")] = False,
    group: Group = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Publish the original records again, each only for the group that could not use it."""
    if bool(letter_ids) == every:
        raise CommandError("Give the ids of the dead letters to replay, or --all.")
    choose_target(data_dir)
    letters = _read(group)
    if letter_ids:
        letters = _with_ids(letters, letter_ids)
    _replay(letters)
    typer.echo(f"{len(letters)} records replayed.")


# The Kafka client is imported where it is used: the services' own processes start with this command, too.


def _read(group: str | None) -> "list[StoredDeadLetter]":
    from services.runtime.dead_letter_tools import KafkaUnavailable, read_dead_letters  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, load  # noqa: PLC0415

    try:
        letters = asyncio.run(read_dead_letters(load(KafkaSettings)))
    except KafkaUnavailable as error:
        raise CommandError(str(error)) from error
    return [letter for letter in letters if group in {None, letter.group}]


def _replay(letters: "Sequence[StoredDeadLetter]") -> None:
    from services.runtime.dead_letter_tools import KafkaUnavailable, NotReplayable, replay  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, load  # noqa: PLC0415

    try:
        asyncio.run(replay(load(KafkaSettings), letters))
    except (KafkaUnavailable, NotReplayable) as error:
        raise CommandError(str(error)) from error


def _with_ids(letters: "Sequence[StoredDeadLetter]", letter_ids: Sequence[str]) -> "list[StoredDeadLetter]":
    by_id = {letter.letter_id: letter for letter in letters}
    unknown = [letter_id for letter_id in letter_ids if letter_id not in by_id]
    if unknown:
        raise CommandError(f"There is no dead letter {', '.join(unknown)}: see `chat-sessions dead-letters list`.")
    return [by_id[letter_id] for letter_id in letter_ids]
