"""Bare Starlette routes: what the gateway's work takes by itself, the yardstick of `make bench-gateway`.

A message becomes the same record, by the same producer. A session, or a list, is what the same SQL finds, as JSON.
No tokens, no limits, no keys, nothing checked. Run as a module it has the gateway's server, with its loop and settings;
`on_its_own` is for a server that loads applications by itself.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.api_gateway.database import LENT_AT_ONCE
from services.api_gateway.filters.tree import And
from services.api_gateway.history import HistoryPage
from services.api_gateway.listing import Page
from services.api_gateway.pages import counted_page, form_of_list, values_of_list
from services.api_gateway.publishing import SOURCE
from services.api_gateway.reads import DETAIL
from services.api_gateway.selection import Selection, equal
from services.contracts import new_id
from services.contracts.session import SessionStatus
from services.contracts.topics import MESSAGES
from services.database.engine import asyncpg_url
from services.runtime.kafka import build_producer
from services.runtime.ops import http_server
from services.runtime.settings import KafkaSettings, PostgresSettings
from services.runtime.shutdown import Shutdown, run

USER = "user-0"
LISTED = SessionStatus.COMPLETED
PAGE = Page(50)
HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_type", b"chat.MessageSent.v1"),
    ("ce_source", SOURCE.encode()),
    ("content-type", b"application/json"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
JSON_COLUMNS = {"metadata", "said", "happened"}


@dataclass(frozen=True, slots=True)
class Bare:
    """The routes."""

    producer: AIOKafkaProducer
    pool: "asyncpg.Pool[asyncpg.Record]"

    def routes(self) -> list[Route]:
        return [
            Route("/api/conversations/{conversation}/messages", self.send, methods=["POST"]),
            Route("/api/chat-sessions", self.list),
            Route("/api/chat-sessions/{session}", self.session),
        ]

    async def send(self, request: Request) -> Response:
        body, session, event = orjson.loads(await request.body()), str(new_id()), str(new_id())
        now = datetime.now(UTC).isoformat()
        common = {"conversationId": request.path_params["conversation"], "personaId": body["personaId"]}
        address = request.client.host if request.client else ""
        value = {
            "eventId": event, "occurredAt": now, "sessionId": session, **common, "userId": USER,
            "message": body["message"],
            "metadata": {"ipAddress": address, "userAgent": request.headers["user-agent"]},
        }  # fmt: skip
        own = [("ce_id", event.encode()), ("ce_time", now.encode()), ("ce_subject", session.encode())]
        key = common["conversationId"].encode()
        await (await self.producer.send(MESSAGES.name, orjson.dumps(value), key=key, headers=[*HEADERS, *own]))
        accepted = {"sessionId": session, **common, "status": "ACTIVE", "startedAt": now}
        return Response(orjson.dumps(accepted), 202, media_type="application/json")

    async def session(self, request: Request) -> Response:
        wanted = {"session_id": UUID(request.path_params["session"]), "user_id": USER}
        rows = await self.pool.fetch(DETAIL.sql, *DETAIL.arguments({**wanted, **HistoryPage().values}))
        return in_json(rows[0])

    async def list(self, _: Request) -> Response:
        return in_json(*await self.pool.fetch(LIST.sql, *LIST_ARGUMENTS))


SELECTION = Selection(USER, And(tuple(equal("status", LISTED))))
LIST = counted_page(form_of_list(SELECTION, PAGE))
LIST_ARGUMENTS = LIST.arguments(values_of_list(SELECTION, PAGE, PAGE.limit + 1))


def in_json(*rows: "asyncpg.Record") -> Response:
    """What was read, PostgreSQL's own JSON as it came."""
    told = [{name: orjson.Fragment(v) if name in JSON_COLUMNS else v for name, v in row.items()} for row in rows]
    return Response(orjson.dumps(told, default=str), media_type="application/json")


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[Bare]:
    """The routes over a producer and a pool, as the environment's settings say."""
    url = asyncpg_url(PostgresSettings().database_url.get_secret_value())
    pool = asyncpg.create_pool(url, min_size=LENT_AT_ONCE, max_size=LENT_AT_ONCE, reset=as_it_is)
    async with pool, build_producer(KafkaSettings()) as producer:
        yield Bare(producer, pool)


async def as_it_is(_: object) -> None:
    """Ask PostgreSQL nothing when a connection is given back."""


def on_its_own() -> Starlette:
    """Return an application that opens what it needs when its server starts it."""

    @contextlib.asynccontextmanager
    async def opened(app: Starlette) -> AsyncIterator[None]:
        async with bare() as routes:
            app.router.routes.extend(routes.routes())
            yield

    return Starlette(lifespan=opened)


async def serve(shutdown: Shutdown) -> None:
    async with bare() as routes:
        server = http_server(Starlette(routes=routes.routes()), "127.0.0.1", int(sys.argv[1]))
        serving = asyncio.create_task(server.serve())
        await shutdown.wait()
        server.should_exit = True
        await serving


if __name__ == "__main__":
    sys.exit(run(serve))
