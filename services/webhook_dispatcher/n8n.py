"""The one place that calls webhooks: addresses checked and pinned, bodies capped, a cancelled call closes its socket.

aiohttp, for the reasons in docs/decisions/0002-http-client.md.
"""

import asyncio
import ipaddress
import socket
import ssl
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from services.contracts import MessageSent
from services.contracts.callbacks import token_of
from services.runtime.egress import EgressRules, UrlRefused, check_url
from services.webhook_dispatcher.delivery import Answer, NoAnswer, Trouble
from services.webhook_dispatcher.personas import Persona

MAX_BODY_BYTES = 512 * 1024
"""Of an answer: the largest reply, and room for the JSON around it."""
CONNECT_SECONDS = 5.0
"""For resolving the host, and again for the connection with its TLS handshake."""
ADDRESS_CACHE_SECONDS = 10
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which Node.js closes an idle connection, so that no call meets that closing."""


class AddressRefused(OSError):
    """Every address that a host name stands for is one that the egress rules forbid."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of a webhook. Times are milliseconds since the call began."""

    outcome: Answer | NoAnswer
    duration_ms: int
    first_byte_ms: int | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status, None without a whole answer."""
        return self.outcome.status if isinstance(self.outcome, Answer) else None


class N8n:
    """Calls webhooks. Use as an async context manager: connections are kept while it is open."""

    def __init__(self, rules: EgressRules, *, tls: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
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
            trust_env=False,
            headers={
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": "chat-sessions-dispatcher",
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        persona: Persona,
        message: MessageSent,
        *,
        traceparent: str,
        timeout_seconds: float,
        callback_url: str | None = None,
    ) -> Exchange:
        """Send a message to its persona's webhook and read the whole answer.

        With a `callback_url` the workflow is told where to post its reply; an answer that repeats it comes without its
        secret, since answers are told in events.

        Never raises for what the other side does. When the calling task is cancelled, the socket is closed.
        """
        began = time.monotonic()
        first_byte_ms: int | None = None
        outcome: Answer | NoAnswer | None = self._refusal(persona)
        if outcome is None:
            try:
                async with self._post(persona, message, traceparent, timeout_seconds, callback_url) as response:
                    first_byte_ms = _milliseconds_since(began)
                    outcome = await _read(response)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                outcome = _trouble(error, timeout_seconds)
        if callback_url is not None and isinstance(outcome, Answer):
            outcome = replace(outcome, body=outcome.body.replace(token_of(callback_url).encode(), b"..."))
        return Exchange(outcome, _milliseconds_since(began), first_byte_ms)

    def _post(
        self,
        persona: Persona,
        message: MessageSent,
        traceparent: str,
        timeout_seconds: float,
        callback_url: str | None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("The HTTP client is not open.")
        session_id = str(message.session_id)
        headers = {"webhook-id": session_id, "idempotency-key": session_id, "traceparent": traceparent}
        if persona.auth_header is not None:
            headers[persona.auth_header[0]] = persona.auth_header[1]
        if callback_url is not None:
            headers["callback-url"] = callback_url
        return self._session.post(
            URL(persona.webhook_url),
            data=_body(message, session_id, callback_url),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=CONNECT_SECONDS),
        )

    def _refusal(self, persona: Persona) -> NoAnswer | None:
        if persona.auth_unreadable:
            return NoAnswer(Trouble.NO_CREDENTIALS)
        try:
            check_url(persona.webhook_url)
            host = URL(persona.webhook_url).host or ""
        except UrlRefused as refused:
            return NoAnswer(Trouble.ADDRESS_REFUSED, str(refused).rstrip("."))
        except ValueError:
            return NoAnswer(Trouble.ADDRESS_REFUSED, "the webhook URL cannot be read as a URL")
        # An IP address as host never comes to the resolver.
        if _is_ip_address(host) and not self._rules.allows(host):
            return NoAnswer(Trouble.ADDRESS_REFUSED)
        return None


class CheckedResolver(AbstractResolver):
    """Resolves by the system's rules and gives out only addresses that may be called.

    The connection is made to exactly these addresses, so a name that changes in between gains nothing.
    """

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`; raise AddressRefused if it has others only."""
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        families = {str(address[0]): address_family for address_family, _, _, _, address in found}
        allowed = self._rules.choose(list(families))
        if not allowed:
            raise AddressRefused("Every address of the host is forbidden by the egress rules.")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=families[address],
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        """Hold nothing."""


async def _read(response: aiohttp.ClientResponse) -> Answer | NoAnswer:
    if not 100 <= response.status <= 999:
        return NoAnswer(Trouble.NOT_HTTP, f"it answered the status {response.status}")
    if (response.content_length or 0) > MAX_BODY_BYTES:
        response.close()
        return NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            response.close()
            return NoAnswer(Trouble.TOO_LARGE, f"over {MAX_BODY_BYTES} bytes")
    headers = response.headers
    return Answer(
        response.status,
        bytes(body),
        content_type=headers.get("content-type"),
        content_encoding=headers.get("content-encoding"),
        retry_after=headers.get("retry-after"),
    )


_ERRORS: tuple[tuple[type[Exception], Trouble], ...] = (
    (aiohttp.ClientConnectorDNSError, Trouble.NOT_RESOLVED),
    (aiohttp.ClientSSLError, Trouble.TLS_FAILED),
    (aiohttp.ConnectionTimeoutError, Trouble.NOT_CONNECTED),
    (aiohttp.ClientConnectorError, Trouble.NOT_CONNECTED),
    (TimeoutError, Trouble.NOT_IN_TIME),
    (aiohttp.ClientResponseError, Trouble.NOT_HTTP),
    (aiohttp.NonHttpUrlClientError, Trouble.ADDRESS_REFUSED),
    # Also what aiohttp raises for characters that a header may not have.
    (ValueError, Trouble.ADDRESS_REFUSED),
)
"""The first that fits counts: the classes are one another's children. Only the first four never sent anything."""


def _trouble(error: Exception, timeout_seconds: float) -> NoAnswer:
    if isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, AddressRefused):
        return NoAnswer(Trouble.ADDRESS_REFUSED)
    trouble = next((trouble for kind, trouble in _ERRORS if isinstance(error, kind)), Trouble.LOST)
    if trouble is Trouble.NOT_IN_TIME:
        return NoAnswer(trouble, f"{timeout_seconds:.3g} s")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return NoAnswer(trouble, f"not within {CONNECT_SECONDS:g} s")
    if isinstance(error, ValueError):
        return NoAnswer(trouble, "the webhook URL or the auth has characters that cannot be sent")
    return NoAnswer(trouble)


def _body(message: MessageSent, session_id: str, callback_url: str | None) -> bytes:
    told = {
        "message": message.message,
        "conversationId": message.conversation_id,
        "personaId": message.persona_id,
        "userId": message.user_id,
        "sessionId": session_id,
    }
    return orjson.dumps(told if callback_url is None else {**told, "callbackUrl": callback_url})


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _milliseconds_since(began: float) -> int:
    return max(0, round((time.monotonic() - began) * 1000))
