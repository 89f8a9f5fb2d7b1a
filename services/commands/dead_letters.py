"""`chat-sessions dead-letters`: what services could not use, and another try."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.target import CommandError, DataDirectoryOption, chosen_target
from services.commands.wording import counted, listed, shown
from services.contracts.topics import GROUP_TOPICS

if TYPE_CHECKING:
    from services.runtime.dead_letter_tools import StoredDeadLetter

app = typer.Typer(no_args_is_help=True, help="List and replay the records that a service could not use.")

Group = Annotated[str | None, typer.Option(help="Only those of this consumer group.", show_default=False)]
LetterIds = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.", show_default=False)]


@app.command("list")
def list_letters(
    group: Group = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    replayed: Annotated[bool, typer.Option("--replayed", help="Those that were replayed, too.")] = False,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Show dead letters that were not replayed, the newest last: id, when, key, session, where from, why."""
    with chosen_target(data_dir):
        letters = _read(group)
    listing = [letter for letter in letters if replayed or not letter.replayed]
    for line in letter_lines(listing[-limit:], letters):
        typer.echo(line)
    typer.echo(f"{min(limit, len(listing))} of {_summary(listing)}")
    if left_out := len(letters) - len(listing):
        typer.echo(
            f"{left_out} more {'was' if left_out == 1 else 'were'} replayed already: --replayed shows them, too."
        )


@app.command("replay")
def replay_letters(
    letter_ids: LetterIds = None,
    every: Annotated[
        bool, typer.Option("--all", help="All of them, or all of --group, that were not replayed before.")
    ] = False,
    group: Group = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Publish the original records again, each only for the group that could not use it."""
    if bool(letter_ids) == every:
        raise CommandError("Give the ids of the dead letters to replay, or --all.")
    with chosen_target(data_dir):
        letters = _read(group)
        chosen = _with_ids(letters, letter_ids) if letter_ids else [each for each in letters if not each.replayed]
        _replay(chosen)
    typer.echo(_replayed(len(chosen)))


def letter_lines(letters: "Sequence[StoredDeadLetter]", every: "Sequence[StoredDeadLetter]") -> Iterator[str]:
    """A line for each of `letters`; `every` is where the letters of other groups for the same record are found."""
    by_origin: dict[tuple[str, int, int], list[str]] = {}
    for letter in every:
        by_origin.setdefault(letter.origin, []).append(letter.letter_id)
    for letter in letters:
        same = [letter_id for letter_id in by_origin[letter.origin] if letter_id != letter.letter_id]
        remarks = [f"the same record as {listed(same)}"] if same else []
        remarks += ["failed again after a replay"] if letter.failed_again else []
        remarks += ["replayed"] if letter.replayed else []
        yield _letter_line(letter) + (f"  ({'; '.join(remarks)})" if remarks else "")


def _letter_line(letter: "StoredDeadLetter") -> str:
    key = "no key" if letter.key is None else f"key {shown(letter.key.decode('utf-8', 'replace'), 64)}"
    session = "no session" if letter.subject is None else f"session {shown(letter.subject, 64)}"
    return (
        f"{letter.letter_id}  {letter.written_at:%Y-%m-%d %H:%M:%S}  {key}  {session}  from {letter.topic} partition "
        f"{letter.partition} offset {letter.offset}  {letter.reason}: {letter.error}"
    )


def _summary(letters: "Sequence[StoredDeadLetter]") -> str:
    records = len({letter.origin for letter in letters})
    of_records = "" if records == len(letters) else f" of {counted(records, 'record')}"
    return f"{counted(len(letters), 'dead letter')}{of_records}."


def _replayed(count: int) -> str:
    if count == 0:
        return "No dead letter is left to replay."
    again = (
        "if it fails again, it appears as a new letter" if count == 1 else "those that fail again appear as new letters"
    )
    return f"{counted(count, 'record')} replayed; {again}."


# The Kafka client is imported where it is used: the services' own processes start with this command, too.


def _read(group: str | None) -> "list[StoredDeadLetter]":
    from services.runtime.dead_letter_tools import KafkaUnavailable, read_dead_letters  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, load  # noqa: PLC0415

    if group is not None and group not in GROUP_TOPICS:
        raise CommandError(f"There is no consumer group {shown(group, 64)}: the groups are {listed([*GROUP_TOPICS])}.")
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
