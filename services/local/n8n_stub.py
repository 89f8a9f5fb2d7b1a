"""A stub n8n: every persona's webhook, and a ledger of the calls it got, for people and tests.

`python -m services.local.n8n_stub --port 5678` listens on 127.0.0.1. `GET /calls?sessionId=ID` tells the calls of
one session, `GET /calls?conversationId=ID` those of a conversation in the order they arrived, and
`GET /calls/summary` counts all. A repeated call is answered like a first one: n8n knows no idempotency.
"""

import argparse
import asyncio
import itertools
import sys
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from services.local.n8n_answers import UNREADABLE, WEBHOOKS, Answer, WebhookCall, not_registered

_MAX_SESSIONS = 100_000
_CALLBACK_DELAY_SECONDS = 1.0
_CALLBACK_TRIES = 5


@dataclass(slots=True)
class SessionCalls:
    """The calls of one session; arrivals are numbered over all sessions, from 1."""

    session_id: str
    conversation_id: str
    persona_id: str
    arrivals: list[int] = field(default_factory=list)
    webhook_ids: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """As `GET /calls` tells it."""
        return {
            "sessionId": self.session_id,
            "conversationId": self.conversation_id,
            "personaId": self.persona_id,
            "calls": len(self.arrivals),
            "arrivals": self.arrivals,
            "webhookIds": self.webhook_ids,
        }


class Ledger:
    """Who called, and in which order; keeps the last `max_sessions` sessions and forgets older ones."""

    def __init__(self, max_sessions: int = _MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, SessionCalls] = OrderedDict()
        self._arrival = itertools.count(1)
        self._personas: Counter[str] = Counter()
        self._repeated = 0

    def note(self, session_id: str, conversation_id: str, persona_id: str, webhook_id: str) -> int:
        """Enter a call; gives its number among the calls of its session, from 1."""
        calls = self._sessions.get(session_id)
        if calls is None:
            calls = self._sessions[session_id] = SessionCalls(session_id, conversation_id, persona_id)
            if len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)
        else:
            self._repeated += 1
        calls.arrivals.append(next(self._arrival))
        calls.webhook_ids.append(webhook_id)
        self._personas[persona_id] += 1
        return len(calls.arrivals)

    def of_session(self, session_id: str) -> SessionCalls | None:
        """The calls of a session, None if there were none (or too long ago)."""
        return self._sessions.get(session_id)

    def of_conversation(self, conversation_id: str) -> list[SessionCalls]:
        """The sessions of a conversation, in the order of their first calls."""
        return [calls for calls in self._sessions.values() if calls.conversation_id == conversation_id]

    def summary(self) -> dict[str, object]:
        """All calls ever, those beyond a session's first, the sessions kept here, and calls by persona."""
        return {
            "calls": self._personas.total(),
            "repeatedCalls": self._repeated,
            "sessions": len(self._sessions),
            "personas": dict(self._personas),
        }


def stub_app() -> Starlette:
    """The stub as an ASGI application with a ledger of its own."""
    ledger = Ledger()
    replies: set[asyncio.Task[None]] = set()

    async def webhook(request: Request) -> Response:
        return await _answer_call(request, ledger, replies)

    async def calls(request: Request) -> Response:
        if conversation_id := request.query_params.get("conversationId"):
            return _json([calls.as_json() for calls in ledger.of_conversation(conversation_id)])
        session_id = request.query_params.get("sessionId", "")
        found = ledger.of_session(session_id)
        return _json((found or SessionCalls(session_id, "", "")).as_json())

    async def summary(_: Request) -> Response:
        return _json(ledger.summary())

    async def ready(_: Request) -> Response:
        return _json({"status": "ready"})

    return Starlette(
        routes=[
            Route("/webhook/{path:path}", webhook, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            Route("/calls/summary", summary),
            Route("/calls", calls),
            Route("/health/ready", ready),
        ]
    )


async def _answer_call(request: Request, ledger: Ledger, replies: set[asyncio.Task[None]]) -> Response:
    path = request.path_params["path"]
    persona = WEBHOOKS.get(path)
    if persona is None or request.method != "POST":
        return _response(not_registered(request.method, path))
    try:
        body = orjson.loads(await request.body())
        session_id, conversation_id = str(body["sessionId"]), str(body["conversationId"])
        message, callback_url = str(body["message"]), str(body.get("callbackUrl", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _response(UNREADABLE)
    number = ledger.note(session_id, conversation_id, path, request.headers.get("webhook-id", ""))
    answer = persona(WebhookCall(path, session_id, message, number))
    if answer is None:
        await _until_disconnected(request)
        return Response(status_code=499)
    if answer.delay_seconds:
        await asyncio.sleep(answer.delay_seconds)
    if answer.reply_later is not None and callback_url:
        task = asyncio.create_task(_reply_later(callback_url, answer.reply_later))
        replies.add(task)
        task.add_done_callback(replies.discard)
    return _response(answer)


async def _reply_later(callback_url: str, reply: bytes) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for _ in range(_CALLBACK_TRIES):
            await asyncio.sleep(_CALLBACK_DELAY_SECONDS)
            try:
                answer = await client.post(callback_url, content=reply, headers={"content-type": "application/json"})
            except httpx.TransportError:
                continue
            if answer.status_code < 500:
                return


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.content_type is not None:
        headers["content-type"] = answer.content_type
    if len(answer.body) == 1:
        return Response(answer.body[0], answer.status, headers)
    return StreamingResponse(_pieces(answer), answer.status, headers)


async def _pieces(answer: Answer) -> AsyncIterator[bytes]:
    first, *others = answer.body
    yield first
    for piece in others:
        await asyncio.sleep(answer.pause_seconds)
        yield piece


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def main() -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    options = parser.parse_args()
    uvicorn.run(
        stub_app(),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        backlog=4096,
        access_log=False,
        log_level="warning",
        server_header=False,
        # Calls of `hang` wait for ever.
        timeout_graceful_shutdown=1,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
