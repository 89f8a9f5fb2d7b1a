"""The one place that calls webhooks: addresses checked and pinned, bodies capped, a cancelled call closes its socket.

aiohttp, for the reasons in docs/decisions/0002-http-client.md.
"""

import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, Self

import aiohttp
import orjson
from yarl import URL

from services.contracts import MessageSent
from services.contracts.callbacks import token_of
from services.contracts.secrecy import forms
from services.runtime.egress import EgressRules
from services.runtime.time_limits import Watch
from services.webhook_dispatcher.addresses import AddressRefused, CheckedResolver, target
from services.webhook_dispatcher.bodies import MAX_BODY_BYTES, IncomingBody
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.credentials import Credentials
from services.webhook_dispatcher.executions import EXECUTION_HEADER, execution_id, plausible
from services.webhook_dispatcher.outcomes import Answer, Exchange, NoAnswer, Trouble
from services.webhook_dispatcher.patience import Patience
from services.webhook_dispatcher.personas import Persona

CONNECT_SECONDS = 5.0
"""For a new connection with its TLS handshake, once the host is resolved."""
ADDRESS_CACHE_SECONDS = 10
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which Node.js closes an idle connection, so that no call meets that closing."""
LOOK_SECONDS = 0.05
"""A call is broken off so much after its limit, at most."""
MOST_TARGETS = 4_096
"""Webhook URLs that are remembered with what the checks said of them."""

Hear = Callable[[str], None]
"""Takes the next piece of a streamed reply, as it arrives."""


def unheard(_: str) -> None:
    """Hear nothing."""


class N8n:
    """Calls webhooks. Use as an async context manager: connections are kept while it is open."""

    def __init__(self, rules: EgressRules, *, tls: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._tls = tls
        # Reading and checking a URL takes longer than what else is done of our own to make a call.
        self._target = lru_cache(MOST_TARGETS)(partial(target, rules))
        self._session: aiohttp.ClientSession | None = None
        self._watch = Watch(LOOK_SECONDS)

    async def __aenter__(self) -> Self:
        connector = _Connector(
            resolver=CheckedResolver(self._rules),
            ttl_dns_cache=ADDRESS_CACHE_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            limit=0,
            ssl=self._tls or True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trust_env=False,
            headers={
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": "chat-sessions-dispatcher",
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.close()
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        persona: Persona,
        message: MessageSent,
        course: Course,
        *,
        traceparent: str,
        hear: Hear = unheard,
        callback_url: str | None = None,
    ) -> Exchange:
        """Send a message to its persona's webhook and read the whole answer; `course` follows, and says how long.

        With a `callback_url` the workflow is told where to post its reply; its token is one of the answer's secrets.

        Never raises for what the other side does. When the calling task is cancelled, the socket is closed.
        """
        outcome: Answer | NoAnswer
        url = NoAnswer(Trouble.NO_CREDENTIALS) if persona.auth_unreadable else self._target(persona.webhook_url)
        if isinstance(url, NoAnswer):
            outcome = url
        else:
            patience = Patience(self._watch, course)
            calling = _calling.set(course)
            try:
                with patience:
                    body, headers, secrets = _request(persona.credentials, message, traceparent, callback_url)
                    async with self._post(url, body, headers) as response:
                        outcome = await _read(response, course, secrets, hear)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                outcome = _trouble(error, course, patience.exceeded)
            finally:
                _calling.reset(calling)
        return Exchange(outcome, course, course.duration_ms(time.monotonic()))

    def _post(
        self, url: URL, body: bytes, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("The HTTP client is not open.")
        return self._session.post(url, data=body, headers=headers, allow_redirects=False)


_calling: ContextVar[Course] = ContextVar("_calling")


class _Connector(aiohttp.TCPConnector):
    """Tells the call when it has its connection: aiohttp's own tracing does so too, for a sixth of a call's CPU."""

    async def connect(self, *arguments: Any, **named: Any) -> Any:
        connection = await super().connect(*arguments, **named)
        _calling.get().connected(time.monotonic())
        return connection


def _request(
    credentials: Credentials, message: MessageSent, traceparent: str, callback_url: str | None
) -> tuple[bytes, dict[str, str], tuple[str, ...]]:
    """Return the body and the headers of a call, and what must not be told if the webhook echoes it."""
    session_id = str(message.session_id)
    body = _body(message, session_id, callback_url)
    proof = credentials.prove(session_id=session_id, user_id=message.user_id, body=body, now=time.time())
    headers = {**proof.headers, "idempotency-key": session_id, "traceparent": traceparent}
    if callback_url is None:
        return body, headers, proof.secrets
    headers["callback-url"] = callback_url
    return body, headers, (*proof.secrets, *forms(token_of(callback_url)))


def _body(message: MessageSent, session_id: str, callback_url: str | None) -> bytes:
    told = {
        "message": message.message,
        "conversationId": message.conversation_id,
        "personaId": message.persona_id,
        "userId": message.user_id,
        "sessionId": session_id,
    }
    return orjson.dumps(told if callback_url is None else {**told, "callbackUrl": callback_url})


async def _read(
    response: aiohttp.ClientResponse, course: Course, secrets: tuple[str, ...], hear: Hear
) -> Answer | NoAnswer:
    course.answered(time.monotonic())
    if not 100 <= response.status <= 999:
        return NoAnswer(Trouble.NOT_HTTP, f"it answered the status {response.status}")
    if (response.content_length or 0) > MAX_BODY_BYTES:
        return _too_large(response)
    headers = response.headers
    # At once: a call that is broken off before its end tells it too, and what it started can be stopped.
    course.execution_id = plausible(headers.get(EXECUTION_HEADER), secrets)
    encoding = headers.get("content-encoding")
    body = IncomingBody(may_stream=response.status in _SUCCESS and encoding in {None, "", "identity"})
    while piece := await response.content.readany():
        course.heard(time.monotonic())
        _tell(hear, body.feed(piece))
        if body.stream is not None and course.execution_id is None:
            course.execution_id = plausible(body.stream.execution_id, secrets)
        if body.over:
            response.close()
            break
    _tell(hear, body.close())
    if body.too_large:
        return _too_large(response)
    answer = Answer(
        response.status,
        bytes(body.raw),
        content_type=headers.get("content-type"),
        content_encoding=encoding,
        retry_after=headers.get("retry-after"),
        execution_header=headers.get(EXECUTION_HEADER),
        stream=body.stream,
        secrets=secrets,
    )
    course.execution_id = execution_id(answer)
    return answer


_SUCCESS = range(200, 300)


def _tell(hear: Hear, text: str) -> None:
    if text:
        hear(text)


def _too_large(response: aiohttp.ClientResponse) -> NoAnswer:
    response.close()
    return NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")


_ERRORS: tuple[tuple[type[Exception], Trouble], ...] = (
    (aiohttp.ClientConnectorDNSError, Trouble.NOT_RESOLVED),
    (aiohttp.ClientSSLError, Trouble.TLS_FAILED),
    (aiohttp.ConnectionTimeoutError, Trouble.NOT_CONNECTED),
    (aiohttp.ClientConnectorError, Trouble.NOT_CONNECTED),
    (aiohttp.ClientResponseError, Trouble.NOT_HTTP),
    (aiohttp.NonHttpUrlClientError, Trouble.ADDRESS_REFUSED),
    # Also what aiohttp raises for characters that a header may not have.
    (ValueError, Trouble.ADDRESS_REFUSED),
)
"""The first that fits counts: the classes are one another's children. Only the first four never sent anything."""


def _trouble(error: Exception, course: Course, exceeded: str | None) -> NoAnswer:
    connected = course.connected_at is not None
    if exceeded is not None:
        return NoAnswer(Trouble.NOT_IN_TIME if connected else Trouble.NOT_CONNECTED, exceeded)
    if isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, AddressRefused):
        return NoAnswer(Trouble.ADDRESS_REFUSED)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return NoAnswer(Trouble.NOT_CONNECTED, f"not within {CONNECT_SECONDS:g} s")
    if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
        return NoAnswer(Trouble.ADDRESS_REFUSED, "the webhook URL or the auth has characters that cannot be sent")
    found = next((trouble for kind, trouble in _ERRORS if isinstance(error, kind)), None)
    return NoAnswer(found or (Trouble.LOST if connected else Trouble.NOT_CONNECTED))
