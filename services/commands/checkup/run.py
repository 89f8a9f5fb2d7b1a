"""Runs every check of `chat-sessions doctor` at the same time, each within its own bound."""

import asyncio
from collections.abc import Awaitable, Mapping

from services.commands.checkup.findings import Finding, wrong
from services.commands.checkup.kafka import check_kafka
from services.commands.checkup.letters import check_letters
from services.commands.checkup.postgres import check_postgres
from services.commands.checkup.processes import check_processes
from services.commands.checkup.settings import check_settings
from services.runtime.settings import KafkaSettings, PostgresSettings, SettingsType, WrongSettings, read_settings

PATIENCE_SECONDS = 10.0
"""For one part; all parts are looked at together."""


async def examine(ops_urls: Mapping[str, str], pids: Mapping[str, int], *, is_stack: bool) -> list[Finding]:
    """Return what is found of the environment's settings, its Kafka and PostgreSQL, and the processes of `ops_urls`.

    `pids` are those that are known.

    Takes at most PATIENCE_SECONDS and a moment: what does not answer by then is a finding.
    """
    parts = [_bounded("processes", check_processes(ops_urls, pids))]
    findings = check_settings(is_stack=is_stack)
    kafka, postgres = _usable(KafkaSettings), _usable(PostgresSettings)
    if kafka is not None:
        parts.append(_bounded("kafka", check_kafka(kafka)))
    if postgres is not None:
        parts.append(_bounded("postgres", check_postgres(postgres)))
    if kafka is not None and postgres is not None:
        parts.append(_bounded("dead-letters", check_letters(kafka, postgres)))
    for part, usable in (("kafka", kafka), ("postgres", postgres)):
        if usable is None:
            findings.append(wrong(part, "it cannot be checked, since its settings are wrong.", "correct them first."))
    for found in await asyncio.gather(*parts):
        findings += found
    return sorted(findings, key=lambda finding: finding.check)


async def _bounded(part: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await check
    except TimeoutError:
        return [
            wrong(
                part,
                f"it did not answer everything within {PATIENCE_SECONDS:.0f} s.",
                "see whether it is overloaded, and whether the network to it is well.",
            )
        ]


def _usable(settings: type[SettingsType]) -> SettingsType | None:
    try:
        return read_settings(settings)
    except WrongSettings:
        return None
