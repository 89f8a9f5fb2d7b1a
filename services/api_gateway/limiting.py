"""Rate limits as requests meet them: who counts, and what the answer tells of it."""

import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from services.api_gateway.problems import Problem
from services.api_gateway.rates import RateLimit, Verdict, told_in_headers
from services.api_gateway.shared_counts import SharedCounts

_VERDICTS = "chat_sessions.verdicts"


@dataclass(frozen=True, slots=True)
class Limiter:
    """One limit, counted by all gateways together where they share a storage, else by each for itself.

    While that storage is away, each counts for itself: limits grow lax, and nobody is kept out who may come in.
    """

    limit: RateLimit
    shared: SharedCounts | None

    async def count(self, request: Request, key: str) -> None:
        """Count the request; raise Problem 429 where it is one too many. The answer tells of it either way."""
        verdict = None
        if self.shared is not None and self.limit.most:
            verdict = await self.shared.hit(self.limit.name, self.limit.most, key)
        verdict = verdict or self.limit.hit(key, time.monotonic())
        if verdict is None:
            return
        request.scope.setdefault(_VERDICTS, []).append(verdict)
        if not verdict.allowed:
            raise Problem(
                429,
                "rate-limited",
                f"At most {verdict.limit} {verdict.name} a minute are allowed; try again in {verdict.reset_seconds} s.",
                headers={"retry-after": str(verdict.reset_seconds)},
            )


def verdict_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the header fields that tell of the limits that the request has met."""
    verdicts: list[Verdict] | None = scope.get(_VERDICTS)
    return told_in_headers(verdicts) if verdicts else []
