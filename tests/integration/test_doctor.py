"""`chat-sessions doctor` beside a real Kafka and a real PostgreSQL in which nothing runs."""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from services.commands.checkup import locks
from services.commands.checkup.findings import Finding, Level
from services.commands.checkup.postgres import check_postgres
from services.contracts.events import TrackedEvent
from services.contracts.session import FailureKind
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.local.postgres import EmbeddedPostgres
from services.local.processes import free_port
from services.runtime.settings import PostgresSettings
from services.session_tracker.fold import Arrival
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from tests.command_line import run_command
from tests.integration.kafka_log import settings_for
from tests.integration.tracker_process import connected, until
from tests.sample_events import SessionEvents


def test_it_says_what_does_not_run_and_shows_no_secret(
    bootstrap: str, postgres_url: str, postgres_server: EmbeddedPostgres
) -> None:
    kafka = settings_for(bootstrap)
    postgres_server.run_sql(
        "INSERT INTO fold_progress VALUES ('chat.messages.v1', 0, now() - interval '1 hour');"
        ' DROP INDEX "ix_jobs_createdAt"',
        urlsplit(postgres_url).path[1:],
    )
    environment = {
        "PATH": os.defpath,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.kafka_bootstrap_servers,
        "KAFKA_IDEMPOTENCE": str(kafka.kafka_idempotence),
        "DATABASE_URL": postgres_url,
        "JWT_SECRET": "a secret that is never shown, of more than 32 bytes",
        "GATEWAY_PORT": str(free_port()),
    }
    done = run_command("doctor", "--json", environment=environment)
    assert done.returncode == 1, done.stderr
    assert "a secret" not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    levels = {finding["check"]: finding["level"] for finding in document["findings"]}
    assert document["well"] is False
    assert levels.pop("kafka.retention") == "well"  # of the embedded broker too, which keeps none
    assert levels == {
        "clocks.postgres": "well",
        "dead-letters": "well",
        "kafka.group.session-sweeps": "wrong",
        "kafka.group.session-tracker": "wrong",
        "kafka.group.webhook-dispatcher": "wrong",
        "kafka.replication": "well",
        "kafka.topics": "well",
        "personas": "notice",
        "postgres.fold": "wrong",
        "postgres.indexes": "wrong",
        "postgres.locks": "well",
        "postgres.partitions": "wrong",
        "postgres.rollups": "well",
        "postgres.schema": "well",
        "postgres.sweeps": "notice",
        "processes.gateway": "wrong",
        "sessions.response": "well",
        "sessions.success": "well",
        "settings": "well",
    }


async def test_it_names_the_personas_that_fail_and_are_slow_and_who_holds_a_lock(
    any_broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LONG_SECONDS", 0.1)
    await fold(postgres_url, [event for _ in range(14) for event in failed("down")])
    await fold(postgres_url, [event for n in range(11) for event in replied_late("slow", n)])
    async with connected(postgres_url) as holder, connected(postgres_url) as waiting:
        pid = await holder.fetchval("SELECT pg_backend_pid()")
        values = (uuid4(), datetime.now(UTC), "admin", "root", "persona.resume", "slow", "done")
        columns = 'id, at, "actorKind", actor, action, target, outcome'
        await holder.execute(f"INSERT INTO audit_log ({columns}) VALUES ($1, $2, $3, $4, $5, $6, $7)", *values)
        await holder.execute("BEGIN; LOCK TABLE fold_progress")
        waits = asyncio.create_task(waiting.execute("DELETE FROM fold_progress WHERE topic = 'a secret'"))

        async def held_up() -> bool:
            return (await look(postgres_url))["postgres.locks"].level is Level.WRONG

        await until(held_up, "the lock was told")
        found = await look(postgres_url)
        await holder.execute("COMMIT")
        await waits
    assert found["postgres.locks"].figures["pid"] == pid
    assert "DELETE FROM fold_progress" in found["postgres.locks"].told
    assert found["postgres.fold"].told == "it cannot be read: another session of PostgreSQL holds a lock on it."
    assert "a secret" not in str(found)
    success, response = found["sessions.success"], found["sessions.response"]
    assert (success.level, success.told[-26:]) == (Level.WRONG, " badly: down 14 (connect).")
    assert success.next_step == "nothing: the personas that failed are deleted."
    async with connected(postgres_url) as rows:
        await rows.execute("""INSERT INTO personas ("personaId", "webhookUrl") VALUES ('down', 'http://n8n/down')""")
    success = (await look(postgres_url))["sessions.success"]
    assert success.next_step == "down: check that n8n runs and that the URL is right."
    again = SessionEvents(persona="down")
    await fold(postgres_url, [again.sent(), again.succeeded()])
    success = (await look(postgres_url))["sessions.success"]
    assert success.next_step == "down answers again: nothing but to retry what failed."
    assert response.figures == {"replies": 11, "slow": 11, "webhooksShare": pytest.approx(0.001, rel=0.2)}
    assert "slow was paused within the hour" in str(response.next_step)


async def look(postgres_url: str) -> dict[str, Finding]:
    """What is found in PostgreSQL, by check."""
    settings = PostgresSettings(database_url=postgres_url)
    return {finding.check: finding for finding in await check_postgres(settings)}


async def fold(postgres_url: str, events: Sequence[TrackedEvent]) -> None:
    engine = build_engine(postgres_url)
    await Months(engine).ensure(events[0].session_id)
    await SessionStore(engine).fold([Arrival(e, e.occurred_at, 0, n) for n, e in enumerate(events)], {})
    await engine.dispose()


def failed(persona: str) -> list[TrackedEvent]:
    """A session that could not reach its webhook."""
    events = SessionEvents(persona=persona)
    return [events.sent(), events.failed(FailureKind.CONNECT)]


def replied_late(persona: str, number: int) -> list[TrackedEvent]:
    """A session, one of some, whose webhook answered in 12 ms, 12 s after the message."""
    began = datetime.now(UTC) - timedelta(seconds=12)
    events = SessionEvents(session_id=UUID(int=id_at(began).int + number), persona=persona)
    return [events.sent(), events.succeeded(at=began + timedelta(seconds=12))]
