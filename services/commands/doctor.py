"""`chat-sessions doctor`: what works and what does not, part by part, or why a session is as it is."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from uuid import UUID

import typer

from services.commands.target import CommandError, DataDirectoryOption, Target, chosen_target
from services.commands.wording import shown


def doctor(
    session_id: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="A session to explain.", show_default=False)
    ] = None,
    process: Annotated[
        list[str] | None,
        typer.Option(help="NAME=URL of a process's health and metrics, beside the known ones.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, as docs/doctor.md describes it.")] = False,
    data_dir: DataDirectoryOption = None,
) -> None:
    """Check settings, Kafka, PostgreSQL, personas, clocks and processes; with a SESSION explain that one instead.

    Each finding says what to do. Exit code 1 if something is wrong.
    """
    session = None if session_id is None else _parsed(session_id)
    with chosen_target(data_dir) as target:
        if session is not None:
            _explain(target, process or [], session, as_json=as_json)
        elif not _all_well(target, process or [], as_json=as_json):
            raise typer.Exit(1)


def _all_well(target: Target, named: Sequence[str], *, as_json: bool) -> bool:
    # Imported here: the services' own processes start with this command, too, and need none of it.
    from services.commands.checkup.findings import all_well, document, line  # noqa: PLC0415
    from services.commands.checkup.run import examine  # noqa: PLC0415

    findings = asyncio.run(examine(_ops_urls(target, named), target.pids, is_stack=target.is_stack))
    if as_json:
        typer.echo(json.dumps(document(findings), indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(line(finding))
    if target.passed_over is not None and not all_well(findings):
        typer.echo(target.passed_over, err=as_json)
    return all_well(findings)


def _ops_urls(target: Target, named: Sequence[str]) -> dict[str, str]:
    return {**(target.ops_urls or {"gateway": target.gateway_url}), **dict(map(_named, named))}


def _named(process: str) -> tuple[str, str]:
    name, equals, url = process.partition("=")
    if not equals or not url.startswith(("http://", "https://")):
        raise CommandError(f"{shown(process, 200)} is not like dispatcher=http://10.0.0.7:9101.")
    return name, url.rstrip("/")


def _parsed(session_id: str) -> UUID:
    try:
        return UUID(session_id)
    except ValueError:
        raise CommandError(f"{shown(session_id, 100)} is not a session id (a UUID).") from None


def _explain(target: Target, named: Sequence[str], session_id: UUID, *, as_json: bool) -> None:
    from services.commands.checkup.processes import find_silent  # noqa: PLC0415
    from services.commands.diagnosis.explain import explain  # noqa: PLC0415
    from services.commands.diagnosis.facts import Facts  # noqa: PLC0415
    from services.commands.diagnosis.gather import gather  # noqa: PLC0415
    from services.commands.diagnosis.told import document, lines  # noqa: PLC0415
    from services.runtime.settings import KafkaSettings, PostgresSettings, load  # noqa: PLC0415

    dispatchers = {name: url for name, url in _ops_urls(target, named).items() if name.startswith("dispatcher")}

    async def everything() -> Facts:
        gathering = gather(load(KafkaSettings), load(PostgresSettings), session_id, _show_progress)
        facts, silent = await asyncio.gather(gathering, find_silent(dispatchers, target.pids))
        return replace(facts, silent=silent)

    facts = asyncio.run(everything())
    verdict = explain(facts)
    if as_json:
        typer.echo(json.dumps(document(facts, verdict), indent=2, ensure_ascii=False))
    elif verdict.code == "unknown":
        raise CommandError(verdict.sentence)
    else:
        for told in lines(facts, verdict):
            typer.echo(told)
    if verdict.code == "unknown":
        raise typer.Exit(1)


def _show_progress(records: int) -> None:
    typer.echo(f"Looking through Kafka: {records:,} records so far.", err=True)
