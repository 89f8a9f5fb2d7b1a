"""`chat-sessions dead-letters`: what services could not use; another try, or none."""

import asyncio
import getpass
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.target import CommandError, DataDirectoryOption, chosen_target
from services.commands.wording import listed, shown
from services.contracts.topics import GROUP_TOPICS, TOPICS

if TYPE_CHECKING:
    from services.commands.letters.deciding import Done
    from services.commands.letters.selection import Choice, Letter

app = typer.Typer(no_args_is_help=True, help="List, show, replay and drop the records that a service could not use.")


class _OwnName:
    """Whoever is logged in: help says so, not who that is where it is read."""

    def __call__(self) -> str:
        return getpass.getuser()

    def __str__(self) -> str:
        return "your user name"


Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.", show_default=False)]
Every = Annotated[bool, typer.Option("--all", help="All that the filters leave and that nobody has decided on.")]
Topic = Annotated[str | None, typer.Option(help="Only records of this topic.", show_default=False)]
Group = Annotated[str | None, typer.Option(help="Only those of this consumer group.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Only those refused for this, such as malformed.", show_default=False)]
Type = Annotated[
    str | None, typer.Option("--type", help="Only events of this type, such as MessageSent.", show_default=False)
]
Since = Annotated[
    str | None, typer.Option(help="Only those of so long (90m, 24h, 7d), or since a time (UTC).", show_default=False)
]
Session = Annotated[str | None, typer.Option(help="Only those that name this session.", show_default=False)]
By = Annotated[str, typer.Option(help="Who decides, for the audit log.", default_factory=_OwnName())]


@app.command("list")
def list_letters(
    *,
    topic: Topic = None,
    group: Group = None,
    reason: Reason = None,
    event_type: Type = None,
    since: Since = None,
    session: Session = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    done: Annotated[bool, typer.Option("--done", help="Those that were replayed or dropped, too.")] = False,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Show dead letters that nobody has decided on, the newest last.

    A line each: id, which names topic and group, when (UTC), session, or else the record's key, and why, as far as a
    terminal has room for it: in a file or a pipe all of it. `show` tells the rest.
    """
    from services.commands.letters.told import letter_lines, summary  # noqa: PLC0415

    choice = _choice(topic, group, reason, event_type, since, session)
    with chosen_target(data_dir):
        letters = asyncio.run(_to_show(choice))
    listing = [letter for letter in letters if done or letter.is_open]
    for line in letter_lines(listing[-limit:], letters, whole=not sys.stdout.isatty()):
        typer.echo(line)
    typer.echo(f"{min(limit, len(listing))} of {summary(listing)}")
    if left_out := len(letters) - len(listing):
        were, them = ("was", "it") if left_out == 1 else ("were", "them")
        typer.echo(f"{left_out} more {were} replayed or dropped already: --done shows {them}, too.")


@app.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(help="An id as `list` shows it.")],
    body: Annotated[bool, typer.Option("--body", help="Its value, too: a user may have written it.")] = False,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Show everything about one dead letter."""
    from services.commands.letters.told import letter_details  # noqa: PLC0415

    with chosen_target(data_dir):
        (letter,) = _chosen(asyncio.run(_to_show(_choice())), [letter_id])
    for line in letter_details(letter, body=body):
        typer.echo(line)


@app.command("replay")
def replay_letters(
    letter_ids: Ids = None,
    *,
    every: Every = False,
    topic: Topic = None,
    group: Group = None,
    reason: Reason = None,
    event_type: Type = None,
    since: Since = None,
    session: Session = None,
    by: By,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Publish the original records again, each only for the group that could not use it, and each once."""
    from services.commands.letters.told import replayed  # noqa: PLC0415

    _ids_or_all(letter_ids, every=every)
    choice = _choice(topic, group, reason, event_type, since, session)
    with chosen_target(data_dir):
        _tell(replayed(asyncio.run(_replay(choice, letter_ids, by))))


@app.command("drop")
def drop_letters(
    letter_ids: Ids = None,
    *,
    because: Annotated[str, typer.Option(help="Why nothing is to be done, for the audit log.")],
    every: Every = False,
    topic: Topic = None,
    group: Group = None,
    reason: Reason = None,
    event_type: Type = None,
    since: Since = None,
    session: Session = None,
    by: By,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Mark dead letters as those that nothing is to be done about. They stay in Kafka, until it drops them."""
    from services.commands.letters.told import dropped  # noqa: PLC0415

    _ids_or_all(letter_ids, every=every)
    if not because.strip():
        raise CommandError("Say why with --because: whoever looks into it later has nothing else.")
    choice = _choice(topic, group, reason, event_type, since, session)
    with chosen_target(data_dir):
        _tell(dropped(asyncio.run(_drop(choice, letter_ids, by, because))))


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        typer.echo(line)


def _ids_or_all(letter_ids: list[str] | None, *, every: bool) -> None:
    if bool(letter_ids) == every:
        raise CommandError("Give the ids of the dead letters, or --all, with filters if only some are meant.")


# The Kafka client and the database are imported where they are used: the services' own processes start with this
# command, too.


def _choice(
    topic: str | None = None,
    group: str | None = None,
    reason: str | None = None,
    event_type: str | None = None,
    since: str | None = None,
    session: str | None = None,
) -> "Choice":
    from services.commands.letters.selection import Choice, read_since  # noqa: PLC0415

    if group is not None and group not in GROUP_TOPICS:
        raise CommandError(f"There is no consumer group {shown(group, 64)}: the groups are {listed([*GROUP_TOPICS])}.")
    names = [known.name for known in TOPICS]
    if topic is not None and topic not in names:
        raise CommandError(f"There is no topic {shown(topic, 64)}: the topics are {listed(names)}.")
    moment = None if since is None else read_since(since, datetime.now(UTC))
    if since is not None and moment is None:
        raise CommandError(f"--since {shown(since, 64)} is neither like 24h nor like 2026-11-23T10:00.")
    return Choice(topic, group, reason, event_type, moment, session)


async def _to_show(choice: "Choice") -> "list[Letter]":
    letters, unknown = await _read(choice)
    if unknown is not None:
        typer.echo(f"{unknown} Letters that were replayed or dropped are shown as if they were not.", err=True)
    return letters


async def _to_decide_on(choice: "Choice", letter_ids: list[str] | None) -> "list[Letter]":
    letters, unknown = await _read(choice)
    if unknown is not None:
        raise unknown
    return _chosen(letters, letter_ids)


async def _read(choice: "Choice") -> "tuple[list[Letter], CommandError | None]":
    """Return the letters, and why it is not known what was decided on them, if it is not."""
    from services.commands.letters.reading import read_letters  # noqa: PLC0415
    from services.runtime.dead_letter_tools import KafkaUnavailable  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415

    try:
        return await read_letters(load(KafkaSettings), load(PostgresSettings), choice)
    except KafkaUnavailable as error:
        raise CommandError(str(error)) from error


async def _replay(choice: "Choice", letter_ids: list[str] | None, by: str) -> "Done":
    from services.commands.letters.deciding import replay  # noqa: PLC0415
    from services.commands.letters.dispositions import open_dispositions  # noqa: PLC0415
    from services.runtime.dead_letter_tools import KafkaUnavailable, NotReplayable, Replay  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415

    letters = await _to_decide_on(choice, letter_ids)
    try:
        async with open_dispositions(load(PostgresSettings)) as dispositions, Replay(load(KafkaSettings)) as kafka:
            return await replay(letters, dispositions, kafka, by)
    except (KafkaUnavailable, NotReplayable) as error:
        raise CommandError(str(error)) from error


async def _drop(choice: "Choice", letter_ids: list[str] | None, by: str, because: str) -> "Done":
    from services.commands.letters.deciding import drop  # noqa: PLC0415
    from services.commands.letters.dispositions import open_dispositions  # noqa: PLC0415
    from services.runtime.settings import PostgresSettings, load  # noqa: PLC0415

    letters = await _to_decide_on(choice, letter_ids)
    async with open_dispositions(load(PostgresSettings)) as dispositions:
        return await drop(letters, dispositions, by, because)


def _chosen(letters: "list[Letter]", letter_ids: list[str] | None) -> "list[Letter]":
    if not letter_ids:
        return [letter for letter in letters if letter.is_open]
    by_id = {letter.stored.letter_id: letter for letter in letters}
    unknown = [letter_id for letter_id in letter_ids if letter_id not in by_id]
    if unknown:
        raise CommandError(
            f"There is no dead letter {', '.join(unknown)} among them: see `chat-sessions dead-letters list --done`."
        )
    return [by_id[letter_id] for letter_id in letter_ids]
