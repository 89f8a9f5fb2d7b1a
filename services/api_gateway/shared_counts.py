"""Counts of requests that several gateways share, in Redis or Valkey (RATE_LIMIT_STORAGE)."""

import hashlib
import logging
import re
import time

from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from valkey.asyncio import ConnectionPool

from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.rates import WINDOW_SECONDS, Verdict, verdict_of

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 0.25
"""How long a request waits for the storage."""
AWAY_SECONDS = 5.0
"""How long nobody asks a storage that did not answer."""


class SharedCounts:
    """Counts as RateLimit does, by the script of the library `limits`: one round trip to decide, one to tell."""

    def __init__(self, url: str, metrics: GatewayMetrics) -> None:
        pool = ConnectionPool.from_url(
            re.sub("^redis", "valkey", url), socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._pool = pool
        self._storage = RedisStorage(
            f"async+{url}",
            wrap_exceptions=True,
            implementation="valkey",
            key_prefix="chat-sessions",
            connection_pool=pool,  # type: ignore[arg-type]
        )
        self._metrics = metrics
        self._asked_again_at = 0.0
        metrics.shared_counts_up.set(1)

    async def hit(self, name: str, limit: int, key: str) -> Verdict | None:
        """Count one request of `key` if it is allowed; None where the storage does not say, so that others decide."""
        if time.monotonic() < self._asked_again_at:
            return None
        window = round(WINDOW_SECONDS)
        # Users' ids would be personal data in one more place, and of any length.
        hashed = f"{name}/{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
        try:
            allowed = await self._storage.acquire_sliding_window_entry(hashed, limit, window)
            before, fades_in, count, kept_for = await self._storage.get_sliding_window(hashed, window)
        except (StorageError, OSError, TimeoutError) as error:
            self._went_away(error)
            return None
        self._metrics.shared_counts_up.set(1)
        # A window is kept for as long again as it lasts, as the one before the next.
        left = max(0.0, kept_for - WINDOW_SECONDS) if kept_for else fades_in
        return verdict_of(name, limit, allowed=allowed, count=count, before=before, left=left)

    def note(self) -> str | None:
        """Return what is to be known about the limits at the moment, None while all is well."""
        if time.monotonic() < self._asked_again_at:
            return "RATE_LIMIT_STORAGE does not answer: each gateway counts for itself."
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()

    def _went_away(self, error: Exception) -> None:
        self._asked_again_at = time.monotonic() + AWAY_SECONDS
        self._metrics.shared_counts_up.set(0)
        logger.warning("RATE_LIMIT_STORAGE does not answer, this gateway counts for itself: %r", error)
