"""The `chat-sessions` command."""

import asyncio
import gc
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.api_gateway.scopes import Scope
from services.commands import dead_letters, personas
from services.commands.doctor import doctor
from services.commands.plain_typer import speak_plainly
from services.commands.send import send
from services.commands.target import CommandError, DataDirectoryOption, chosen_target
from services.commands.wording import counted

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Chat session management for n8n personas. `up` runs everything on this machine; in production run "
    "`migrate` once and as many `gateway`, `dispatcher`, `tracker` and `sweeper` processes as needed.",
)


CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Only read the settings and their files, connect to nothing, and exit with 1 if any is wrong."
    ),
]


class _DefaultDirectory:
    """Where `up` keeps its data, found out only when it is asked for."""

    def __call__(self) -> Path:
        try:
            from services.local.data_directory import default_data_directory  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise _not_installed(error) from error
        return default_data_directory()

    def __str__(self) -> str:
        # Help can be had without what `up` needs.
        try:
            return str(self())
        except CommandError:
            return "a directory of yours"


def _not_installed(error: ModuleNotFoundError) -> CommandError:
    return CommandError(f"`up` needs {error.name}: `pip install '.[local]'` in a clone of chat-sessions installs it.")


@app.command(rich_help_panel="Everything on this machine")
def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the gateway listens on 127.0.0.1.")] = 3000,
    data_dir: Annotated[
        Path,
        typer.Option(help="Where data, logs and secrets are kept.", default_factory=_DefaultDirectory()),
    ],
    broker: Annotated[
        Literal["embedded", "kafka", "kafka-cluster"],
        typer.Option(help="The broker to start here; Apache Kafka, as one or three brokers, needs Java 17 and Maven."),
    ] = "embedded",
    kafka: Annotated[
        str | None, typer.Option(help="Brokers that run elsewhere, host:port, instead.", show_default=False)
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="A PostgreSQL that runs elsewhere.", show_default=False)
    ] = None,
    n8n: Annotated[
        str | None, typer.Option(help="An n8n that runs elsewhere, as URL, instead of the stub.", show_default=False)
    ] = None,
    dispatchers: Annotated[int, typer.Option(min=1, max=32, help="Processes.")] = 1,
    trackers: Annotated[int, typer.Option(min=1, max=32, help="Processes.")] = 1,
) -> None:
    """Run the whole system, with a broker, PostgreSQL and a stub n8n, until Ctrl-C.

    The embedded broker keeps nothing on disk, so each start sends unfinished sessions again; Apache Kafka keeps its
    records, and goes on where it was. PostgreSQL's data stays for the next start. While it runs, stack.json in the
    data directory tells addresses, tokens and process ids.

    Each start makes the personas of the stub that are missing, and corrects the addresses of those that it made itself
    (with --n8n they call that n8n); a persona that you have set stays as it is.
    """
    if broker != "embedded" and kafka is not None:
        raise CommandError("Give either --broker, to start one here, or --kafka, where one runs.")
    if n8n is not None and not n8n.startswith(("http://", "https://")):
        raise CommandError("--n8n must be a URL such as http://127.0.0.1:5678.")
    try:
        from rich.console import Console  # noqa: PLC0415

        from services.local.stack_options import StackOptions  # noqa: PLC0415
        from services.local.up import run_stack  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    options = StackOptions(
        port=port,
        data_directory=data_dir,
        broker=broker,
        kafka=kafka,
        database_url=database_url,
        n8n=n8n,
        dispatchers=dispatchers,
        trackers=trackers,
    )
    raise typer.Exit(run_stack(options, Console()))


@app.command(rich_help_panel="Processes")
def gateway(check: CheckOption = False) -> None:
    """Serve the HTTP API."""
    _run_service("gateway", check, "services.api_gateway.app")


@app.command(rich_help_panel="Processes")
def dispatcher(check: CheckOption = False) -> None:
    """Call personas' webhooks."""
    _run_service("dispatcher", check, "services.webhook_dispatcher.app")


@app.command(rich_help_panel="Processes")
def tracker(check: CheckOption = False) -> None:
    """Fold events into sessions, and sweep those that time out."""
    _run_service("tracker", check, "services.session_tracker.app")


@app.command(rich_help_panel="Processes")
def sweeper(check: CheckOption = False) -> None:
    """Ask for a sweep every CHAT_SESSION_CLEANUP_INTERVAL hours."""
    _run_service("sweeper", check, "services.session_tracker.sweeper")


@app.command(rich_help_panel="Tools")
def migrate(data_dir: DataDirectoryOption = None) -> None:
    """Bring the database to the newest schema and create missing topics. Safe to repeat, and while processes run."""
    from services.database.migrate import NotMigrated  # noqa: PLC0415
    from services.database.migrate import migrate as migrate_database  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415
    from services.runtime.topics import TopicsNotCreated, create_topics  # noqa: PLC0415

    async def both() -> tuple[str | None, list[str]]:
        kafka, postgres = load(KafkaSettings), load(PostgresSettings)
        later = await migrate_database(postgres.database_url.get_secret_value())
        return later, await create_topics(kafka)

    with chosen_target(data_dir):
        try:
            later, created = asyncio.run(both())
        except (NotMigrated, TopicsNotCreated) as error:
            raise CommandError(str(error)) from error
    schema = "is the newest" if later is None else f"is of a later release ({later}) and stays as it is"
    typer.echo(f"The schema {schema}; topics created: {', '.join(created) or 'none, all were there'}.")


@app.command(rich_help_panel="Tools")
def token(
    user: Annotated[str, typer.Option(help="The user id that the token stands for.")],
    admin: Annotated[bool, typer.Option("--admin", help="With the role ADMIN too.")] = False,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            metavar="SCOPE", help=f"What it may be used for, all else not; may be repeated. Of {', '.join(Scope)}."
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="The service that acts for the user; needs --scope.", show_default=False)
    ] = None,
    ttl: Annotated[int, typer.Option(min=1, max=366 * 86400, help="Seconds until it expires.")] = 86400,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Print a token for the HTTP API, signed with JWT_SECRET."""
    if service is not None and not scope:
        raise CommandError("A service may do nothing without a scope: give --scope.")
    if not user:
        raise CommandError("A token stands for a user: give --user their id.")
    with chosen_target(data_dir) as target:
        lifetime = timedelta(seconds=ttl)
        typer.echo(target.token(user, admin=admin, lifetime=lifetime, scopes=scope or (), service=service))


@app.command(rich_help_panel="Tools")
def recover(data_dir: DataDirectoryOption = None) -> None:
    """Send again the messages of sessions that are ACTIVE and may be lost to Kafka, with their original ids."""
    from services.commands.recovery import send_again  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415

    with chosen_target(data_dir):
        count = asyncio.run(send_again(load(KafkaSettings), load(PostgresSettings)))
    typer.echo(f"{counted(count, 'message')} sent again.")


app.command(rich_help_panel="Tools")(send)
app.add_typer(personas.app, name="persona", rich_help_panel="Tools")
app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel="Tools")
app.command(rich_help_panel="Tools")(doctor)


def _run_service(process: str, check: bool, module: str) -> None:
    if check:
        _check_settings(process)
        return
    # Nothing of what a start loads is garbage: looking for it took a fifth of the start. `run` turns it on again.
    gc.disable()
    # Each process loads its own service only.
    code: int = import_module(module).main()
    raise typer.Exit(code)


def _check_settings(process: str) -> None:
    from services.commands.checkup.settings import problems_of  # noqa: PLC0415

    problems = problems_of(process)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"The {process} can start with these settings.")


def main() -> None:
    """Run the command; a person's mistake is one line on stderr and exit code 1, or 2 for wrong arguments."""
    command = typer.main.get_command(app)
    speak_plainly(command)
    try:
        command()
    except CommandError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
