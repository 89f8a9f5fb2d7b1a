"""A gateway on a free port of this machine, over the real broker and a real PostgreSQL, for the tests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.applications import Starlette

from services.api_gateway.app import open_gateway
from services.api_gateway.live.changes import SessionChanges
from services.api_gateway.settings import GatewaySettings
from services.contracts import Event, SessionStatus, decode, new_id
from services.contracts.ids import id_time
from services.contracts.topics import CONTROL, MESSAGES, RESULTS, Topic
from services.database.partitions import create_partitions, id_at, month_of
from services.database.tables import chat_sessions, fold_progress, idempotency_keys, metadata
from services.runtime.ops import http_server
from services.runtime.pseudonyms import Pseudonyms
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from services.runtime.topics import create_topics
from tests.engine import on_apache_kafka
from tests.patience import PATIENT_SECONDS

SECRET = "a-secret-that-only-tests-know-0123456789"
HASH_KEY = "a-key-that-only-tests-hash-users-with-01"


def named(user: str) -> str:
    """How the audit log names an end user."""
    return Pseudonyms(HASH_KEY.encode()).of(user)


def token(user: str = "ada", *, admin: bool = False, secret: str = SECRET, **claims: object) -> str:
    """A token as `chat-sessions token` makes it."""
    roles = ["USER", "ADMIN"] if admin else ["USER"]
    return jwt.encode({"sub": user, "roles": roles, "exp": time.time() + 600, **claims}, secret, algorithm="HS256")


def bearer(user: str = "ada", *, admin: bool = False) -> dict[str, str]:
    return {"authorization": f"Bearer {token(user, admin=admin)}"}


ADA, BOB, ROOT = bearer("ada"), bearer("bob"), bearer("root", admin=True)


@dataclass(frozen=True)
class Gateway:
    http: httpx.AsyncClient
    engine: AsyncEngine
    bootstrap: str
    url: str
    changes: SessionChanges
    app: Starlette

    async def get(self, path: str, headers: dict[str, str] = ADA, **query: object) -> httpx.Response:
        return await self.http.get(path, headers=headers, params={k: str(v) for k, v in query.items()})

    async def send(
        self, conversation: str = "c-1", headers: dict[str, str] = ADA, wait: float | None = None, **body: object
    ) -> httpx.Response:
        path = f"/api/conversations/{conversation}/messages" + (f"?wait={wait}" if wait is not None else "")
        return await self.http.post(path, headers=headers, json={"personaId": "echo", "message": "hello", **body})

    async def execute(self, statement: Any, rows: Any = None) -> Any:
        async with self.engine.begin() as connection:
            return await connection.execute(statement, rows)

    async def empty(self) -> None:
        """Delete every row of its database: each test of several that share a gateway begins with none."""
        async with self.engine.begin() as connection:
            # The audit log's triggers let nobody delete.
            await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table in metadata.tables.values():
                await connection.execute(delete(table))

    async def rows(self, table: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(select(table))).all())

    async def published_keys(self, count: int) -> list[Any]:
        """Return the idempotency keys once there are so many, all marked as published."""
        async with asyncio.timeout(PATIENT_SECONDS):
            while True:
                rows = await self.rows(idempotency_keys)
                if len(rows) == count and None not in {row.publishedAt for row in rows}:
                    return rows
                await asyncio.sleep(0.01)

    async def folded(self, up_to: datetime) -> None:
        """Tell, as the tracker does, that everything up to this time is folded."""
        rows = [
            {"topic": topic.name, "partition": number, "folded_up_to": up_to}
            for topic in (MESSAGES, RESULTS, CONTROL)
            for number in range(topic.partitions)
        ]
        async with self.engine.begin() as connection:
            await connection.execute(delete(fold_progress))
            await connection.execute(insert(fold_progress), rows)

    async def caught_up(self) -> None:
        """Tell that everything that was ever sent is folded."""
        await self.folded(datetime.now(UTC) + timedelta(minutes=1))

    async def add_session(self, session_id: UUID | None = None, **columns: Any) -> UUID:
        """Write a session as the tracker would."""
        session_id = session_id or new_id()
        started = id_time(session_id)
        row = {
            "id": session_id,
            "session_id": session_id,
            "conversation_id": "c-1",
            "persona_id": "echo",
            "user_id": "ada",
            "status": SessionStatus.ACTIVE,
            "started_at": started,
            "last_activity_at": started,
            "version": 1,
            **columns,
        }
        async with self.engine.begin() as connection:
            await create_partitions(connection, month_of(session_id))
            await connection.execute(insert(chat_sessions).values(row))
        return session_id

    async def end_session(self, session_id: UUID, status: SessionStatus, **columns: Any) -> None:
        ended = {"status": status, "ended_at": datetime.now(UTC), "version": 2, **columns}
        await self.execute(update(chat_sessions).where(chat_sessions.c.session_id == session_id).values(ended))

    @contextlib.asynccontextmanager
    async def log_of(self, topic: Topic, key: str | None = None, *, keys: str = "") -> AsyncIterator["Log"]:
        """Lend a reader of what is published to a topic from now on.

        Of that only what is under this key, if one is given, and under keys that begin with `keys`: brokers are shared.
        """
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=None, fetch_max_wait_ms=50)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic.name, number) for number in range(topic.partitions)])
            await consumer.seek_to_end()
            for partition in consumer.assignment():
                await consumer.position(partition)
            yield Log(consumer, topic, key, keys)
        finally:
            await consumer.stop()


@dataclass(frozen=True)
class Log:
    consumer: AIOKafkaConsumer
    topic: Topic
    key: str | None
    keys: str

    async def next(self) -> Event:
        record = await self.next_record()
        return decode(self.topic.name, record.headers, record.value)

    async def next_record(self) -> Any:
        async with asyncio.timeout(PATIENT_SECONDS):
            while True:
                record = await self.consumer.getone()
                if self._is_looked_for(record):
                    return record

    async def is_silent(self, milliseconds: int = 500) -> bool:
        """Whether nothing comes for a while."""
        batches = await self.consumer.getmany(timeout_ms=milliseconds)
        records = [record for batch in batches.values() for record in batch]
        return not [record for record in records if self._is_looked_for(record)]

    def _is_looked_for(self, record: Any) -> bool:
        key = (record.key or b"").decode()
        return self.key in {None, key} and key.startswith(self.keys)


@contextlib.asynccontextmanager
async def running_gateway(
    bootstrap: str, postgres_url: str, *, topics: bool = True, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway, the broker's `topics` made before; `settings` are those of GatewaySettings by field name."""
    if topics:
        await make_topics(bootstrap)
    values = {
        "kafka_bootstrap_servers": bootstrap,
        "database_url": postgres_url,
        "jwt_secret": SECRET,
        "user_hash_key": HASH_KEY,
        "gateway_port": 0,
        "kafka_idempotence": on_apache_kafka(),
        "kafka_fetch_max_wait_ms": 50,
        **settings,
    }
    shutdown = Shutdown()
    engine = create_async_engine(postgres_url)
    async with open_gateway(GatewaySettings(**values), shutdown) as (app, changes):
        server = http_server(app, "127.0.0.1", 0, drain_seconds=5)
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            # Never over TLS, whose certificates take long to read.
            async with httpx.AsyncClient(base_url=url, timeout=PATIENT_SECONDS, trust_env=False, verify=False) as http:
                yield Gateway(http, engine, bootstrap, url, changes, app)
        finally:
            changes.stop()
            server.should_exit = True
            await serving
            await engine.dispose()
    assert shutdown.exit_code == 0


async def until(
    look: Callable[[], Awaitable[httpx.Response]], enough: Callable[[httpx.Response], bool]
) -> httpx.Response:
    """Return the first answer that is enough; fail after a minute."""
    give_up = time.monotonic() + PATIENT_SECONDS
    while not enough(answer := await look()):
        assert time.monotonic() < give_up, answer.text
        await asyncio.sleep(0.02)
    return answer


@contextlib.asynccontextmanager
async def caught_up_gateway(bootstrap: str, postgres_url: str, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that is ready, with everything that was ever sent folded."""
    async with running_gateway(bootstrap, postgres_url, **settings) as gateway:
        await ready(gateway)
        await gateway.caught_up()
        yield gateway


async def until_waiters(gateway: Gateway, count: int) -> None:
    """Return once so many requests wait for a session."""
    await until(lambda: gateway.http.get("/metrics"), lambda answer: f"chat_waiters {count:.1f}" in answer.text)


async def ready(gateway: Gateway) -> None:
    """Return once the gateway can publish."""
    await until(lambda: gateway.http.get("/health/ready"), lambda answer: answer.status_code == 200)


async def make_topics(bootstrap: str) -> None:
    await create_topics(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_replication_factor=1))


LONG_AGO = timedelta(hours=1)


def old_id(minutes: int = 0) -> UUID:
    """The id of a session that began an hour, and some minutes, ago."""
    return UUID(int=id_at(datetime.now(UTC) - LONG_AGO - timedelta(minutes=minutes)).int | new_id().int & (1 << 80) - 1)
