"""`chat-sessions doctor`: what works and what does not, part by part, or why a session is as it is."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from services.commands.explain import explain_session, timeline_lines
from services.commands.target import CommandError, DataDirectoryOption, Target, answer_of, chosen_target
from services.commands.wording import listed, shown


def doctor(
    session_id: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="A session to explain.", show_default=False)
    ] = None,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Check settings, Kafka, topics, PostgreSQL, migrations and health; with a SESSION explain that one instead."""
    session = None if session_id is None else _parsed(session_id)
    with chosen_target(data_dir) as target:
        if session is not None:
            _explain(target, session)
        elif not _all_well(target):
            if target.passed_over is not None:
                typer.echo(target.passed_over)
            raise typer.Exit(1)


def _all_well(target: Target) -> bool:
    # Imported here: the services' own processes start with this command, too, and need none of it.
    from services.commands.checks import run_checks  # noqa: PLC0415

    settings_are_well = _check_settings(target)
    parts_are_well = asyncio.run(run_checks(target.ops_urls or {"gateway": target.gateway_url}))
    return settings_are_well and parts_are_well


def _check_settings(target: Target) -> bool:
    from services.commands.service_settings import PROCESSES, settings_problems  # noqa: PLC0415

    problems = settings_problems()
    for problem, processes in problems.items():
        if target.is_stack:
            typer.echo(f"! Settings of this terminal: {problem} The stack that runs has its own; a new one would fail.")
        else:
            typer.echo(f"✗ Settings of {listed(processes)}: {problem}")
    if not problems and not target.is_stack:
        typer.echo(f"✓ Settings: {listed([*PROCESSES])} can start with them.")
    return target.is_stack or not problems


def _parsed(session_id: str) -> UUID:
    try:
        return UUID(session_id)
    except ValueError:
        raise CommandError(f"{shown(session_id, 100)} is not a session id (a UUID).") from None


def _explain(target: Target, session_id: UUID) -> None:
    with target.client("admin", admin=True) as client:
        answer = client.get(f"/api/chat-sessions/{session_id}")
    if answer.status_code == 404:
        raise CommandError(
            f"There is no session {session_id}. If a service published its message itself, that may be a dead letter: "
            "see `chat-sessions dead-letters list`."
        )
    session = answer_of(answer)
    if not isinstance(session, dict):
        raise CommandError(f"{target.gateway_url} does not answer as a gateway does: check the address.")
    for line in (*explain_session(session), "Timeline (UTC):", *timeline_lines(session)):
        typer.echo(line)
