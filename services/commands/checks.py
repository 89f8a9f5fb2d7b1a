"""The checks of `chat-sessions doctor`: each tells that its part is well, or raises Ailment."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import asyncpg
import httpx
import typer
from aiokafka.errors import KafkaConnectionError, KafkaError
from alembic.script import ScriptDirectory

from services.contracts.topics import DEAD_LETTER_TOPICS, TOPICS
from services.database.engine import asyncpg_url
from services.database.migrate import alembic_config
from services.runtime.kafka import build_admin
from services.runtime.reachability import why_unreachable
from services.runtime.settings import KafkaSettings, PostgresSettings, SettingsType, WrongSettings, read_settings

_PATIENCE_SECONDS = 10


class Ailment(Exception):
    """A part of the system is not well; the message says what is wrong and what to do."""


async def run_checks(ops_urls: Mapping[str, str]) -> bool:
    """Check the environment's Kafka and PostgreSQL and every process of `ops_urls`, and show each.

    Tells whether all are well.
    """
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [("Kafka", _check_kafka), ("PostgreSQL", _check_postgres)]
    checks += [(name, partial(_check_health, url)) for name, url in ops_urls.items()]
    well = True
    for name, check in checks:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                typer.echo(f"✓ {name}: {await check()}")
        except Ailment as error:
            well = False
            typer.echo(f"✗ {name}: {error}")
        except TimeoutError:
            well = False
            typer.echo(f"✗ {name}: it did not answer within {_PATIENCE_SECONDS} s.")
    return well


def _usable(settings: type[SettingsType]) -> SettingsType:
    try:
        return read_settings(settings)
    except WrongSettings as error:
        raise Ailment(f"it cannot be checked, since its settings are wrong. {error}") from None


async def _check_kafka() -> str:
    settings = _usable(KafkaSettings)
    address = settings.kafka_bootstrap_servers
    admin = build_admin(settings)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        wanted = [topic for topic in (*TOPICS, *DEAD_LETTER_TOPICS) if topic.name in existing]
        found = await admin.describe_topics([topic.name for topic in wanted]) if wanted else []
    except KafkaConnectionError as error:
        raise Ailment(await why_unreachable(settings)) from error
    except KafkaError as error:
        raise Ailment(f"{address} answers with an error ({error!r}): see the broker's log.") from error
    finally:
        await admin.close()
    missing = [topic.name for topic in (*TOPICS, *DEAD_LETTER_TOPICS) if topic not in wanted]
    if missing:
        raise Ailment(f"{address} has no topic {', '.join(missing)}: run `chat-sessions migrate`.")
    counts = {entry["topic"]: len(entry["partitions"]) for entry in found}
    odd = [topic.name for topic in wanted if counts[topic.name] != topic.partitions]
    if odd:
        raise Ailment(f"{', '.join(odd)} have another number of partitions than the contract: make them anew.")
    return f"{address} answers and has all {len(wanted)} topics."


async def _check_postgres() -> str:
    database_url = _usable(PostgresSettings).database_url.get_secret_value()
    head = ScriptDirectory.from_config(alembic_config(database_url)).get_current_head()
    try:
        connection = await asyncpg.connect(asyncpg_url(database_url), timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise Ailment(f"it is out of reach ({type(error).__name__}: {error}): check DATABASE_URL.") from error
    try:
        applied = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        applied = None
    finally:
        await connection.close()
    if applied != head:
        raise Ailment(
            f"its schema is {applied or 'empty'}, and this version needs {head}: run `chat-sessions migrate`."
        )
    return f"it answers, and its schema is {head}."


async def _check_health(url: str) -> str:
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"{url}/health/ready")
    except httpx.HTTPError as error:
        raise Ailment(f"{url} is out of reach ({type(error).__name__}): start it, or see why it ended.") from error
    if answer.status_code != 200:
        raise Ailment(f"{url} is not ready: {answer.text[:500]}")
    return f"{url} is ready."
