"""`chat-sessions doctor`: what works and what does not, part by part, or why a session is as it is."""

import asyncio
from typing import Annotated

import typer

from services.commands.explain import explain_session, timeline_lines
from services.commands.target import CommandError, DataDirectoryOption, Target, answer_of, choose_target


def doctor(
    session_id: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="A session to explain.", show_default=False)
    ] = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Check settings, Kafka, topics, PostgreSQL, migrations and health; with a SESSION explain that one instead."""
    target = choose_target(data_dir)
    if session_id is not None:
        _explain(target, session_id)
        return
    # Imported here: the services' own processes start with this command, too, and need none of it.
    from services.commands.checks import run_checks  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415

    ops_urls = target.ops_urls or {"gateway": target.gateway_url}
    if not asyncio.run(run_checks(load(KafkaSettings), load(PostgresSettings), ops_urls)):
        raise typer.Exit(1)


def _explain(target: Target, session_id: str) -> None:
    with target.client("admin", admin=True) as client:
        session = answer_of(client.get(f"/api/chat-sessions/{session_id}"))
    if not isinstance(session, dict):
        raise CommandError(f"{target.gateway_url} does not answer as a gateway does: check the address.")
    for line in (*explain_session(session), "Timeline:", *timeline_lines(session)):
        typer.echo(line)
