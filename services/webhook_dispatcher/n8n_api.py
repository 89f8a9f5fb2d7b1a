"""n8n's own API, as far as this system needs it: stopping an execution. By the same egress rules as webhooks.

https://docs.n8n.io/api/ (`POST /executions/{id}/stop`, as n8n 2.30 has it)
"""

from typing import Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from services.runtime.egress import EgressRules
from services.webhook_dispatcher.addresses import CheckedResolver, checked
from services.webhook_dispatcher.n8n import CONNECT_SECONDS

TOTAL_SECONDS = 5.0


class N8nApiRefused(Exception):
    """The execution was not stopped; the text says why, without secrets."""


class N8nApi:
    """Use as an async context manager."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=CheckedResolver(self._rules), force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS),
            headers={"user-agent": "chat-sessions-dispatcher"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def stop_execution(self, api_url: str, api_key: str, execution_id: str) -> None:
        """Return once n8n says that the execution is stopped; raise N8nApiRefused for everything else."""
        if self._session is None:
            raise RuntimeError("The HTTP client is not open.")
        url = URL(f"{api_url.rstrip('/')}/executions/{quote(execution_id, safe='')}/stop", encoded=True)
        try:
            checked(self._rules, api_url)
            async with self._session.post(url, headers={"x-n8n-api-key": api_key}, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise N8nApiRefused(f"n8n's API could not be called ({type(error).__name__}).") from error
        if status != 200:
            raise N8nApiRefused(f"n8n's API answered {status}.")
