"""The public keys of an identity provider (RFC 7517), fetched, kept and fetched again."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
from prometheus_client import Gauge

from services.api_gateway.problems import Problem

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
UNKNOWN_KEY_SECONDS = 30.0
"""Least time between two fetches, so that invented key ids cannot make the gateway fetch all the time."""
STALE_SECONDS = 600.0
"""Keys older than this are fetched again, so that a withdrawn key stops working."""


class KeySet:
    """Gives the key that a token names; `up` shows whether the last fetch brought any. Call `close()` at the end."""

    def __init__(self, url: str, client: httpx.AsyncClient, up: Gauge) -> None:
        self._url = url
        self._client = client
        self._up = up
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def key(self, header: Mapping[str, Any], now: float) -> tuple[jwt.PyJWK, list[str]] | None:
        """Return the key for a token with this header and the one algorithm it may use; None if there is none.

        `now` is in seconds and never goes back. Raises Problem 503 while there are no keys at all.
        """
        kid = header.get("kid")
        if self._is_due(kid, now):
            async with self._fetching:
                if self._is_due(kid, now):
                    await self._fetch(now)
        if self._fetched_at is None:
            raise Problem(
                503, "keys-not-available", "The keys that verify tokens cannot be fetched at the moment; try again."
            )
        key = self._keys.get(kid)
        return None if key is None else (key, [key.algorithm_name])

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _is_due(self, kid: str | None, now: float) -> bool:
        if self._tried_at is not None and now - self._tried_at < UNKNOWN_KEY_SECONDS:
            return False
        return self._fetched_at is None or kid not in self._keys or now - self._fetched_at > STALE_SECONDS

    async def _fetch(self, now: float) -> None:
        self._tried_at = now
        try:
            answer = await self._client.get(self._url)
            answer.raise_for_status()
            keys = _usable_keys(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            self._up.set(0)
            logger.warning("The keys that verify tokens could not be fetched: %s", type(error).__name__)
            return
        self._up.set(1)
        self._keys, self._fetched_at = keys, now


def _usable_keys(document: object) -> dict[str | None, jwt.PyJWK]:
    """Return the signature keys of a JWKS document by id, those for other algorithms left out."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a JWKS document")  # noqa: TRY004
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry)
        except jwt.PyJWTError:
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys
