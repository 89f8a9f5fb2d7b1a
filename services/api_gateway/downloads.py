"""Answers that are written for as long as a client reads them: few at once, and given up with their client."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api_gateway.database import DatabaseAway
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.problems import Problem

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 4
"""Of one gateway: an export keeps it busy for as long as its client reads."""


@dataclass(slots=True)
class Downloads:
    """The exports under way here."""

    metrics: GatewayMetrics
    running: int = 0

    @contextlib.contextmanager
    def beginning(self) -> Iterator[Callable[[], None]]:
        """Take a place for an export, and lend what gives it back when that has ended; Problem 503 where all are taken.

        What is raised here, before the export has begun, gives the place back too.
        """
        if self.running >= MOST_AT_ONCE:
            raise Problem(
                503,
                "too-many-exports",
                f"{MOST_AT_ONCE} exports are under way here; try again when one has ended.",
                headers={"retry-after": "10"},
            )
        self.running += 1
        self.metrics.exports.inc()
        try:
            yield self._end
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self.running -= 1
        self.metrics.exports.dec()


class Download(StreamingResponse):
    """Ends with its client; is broken off, so that nobody takes it for the whole, where PostgreSQL goes away."""

    def __init__(self, parts: AsyncIterator[bytes], ended: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(parts, headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer."""
        try:
            await super().__call__(scope, receive, send)
        except DatabaseAway as error:
            logger.warning("An export was broken off: %s", error)
        finally:
            self._ended()
