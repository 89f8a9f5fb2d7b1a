"""What every request passes first: who calls, how often, and whether he may."""

import time
from dataclasses import dataclass

from fastapi import Request

from services.api_gateway.audit import record_refusal
from services.api_gateway.auth import Authenticator, Caller
from services.api_gateway.database import Database
from services.api_gateway.problems import Problem
from services.api_gateway.rates import RateLimit, Verdict


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests in. Every method raises the Problem that answers a request which it keeps out."""

    authenticator: Authenticator
    database: Database
    reads: RateLimit
    sessions_enabled: bool

    async def caller(self, request: Request) -> Caller:
        """Return who calls; the request counts towards no limit."""
        return await self.authenticator.caller(request.headers.get("authorization"), time.time())

    async def reader(self, request: Request) -> Caller:
        """Return who calls, within the limit of reads."""
        caller = await self.caller(request)
        within(self.reads.hit(caller.user_id, time.monotonic()))
        return caller

    async def session_reader(self, request: Request) -> Caller:
        """Return who calls a session endpoint, within the limit of reads."""
        caller = await self.reader(request)
        self.require_sessions()
        return caller

    async def admin(self, request: Request, action: str, target: str) -> Caller:
        """Return the admin who calls, within the limit of reads; a refusal is put into the audit log."""
        caller = await self.reader(request)
        await self.require_admin(caller, action, target)
        return caller

    async def require_admin(self, caller: Caller, action: str, target: str) -> None:
        """Raise Problem 403, and put it into the audit log, unless the caller is an admin."""
        if not caller.is_admin:
            await record_refusal(self.database, caller, action, target)
            raise Problem(403, "admin-only", f"Only a token with the role ADMIN may do this: {action}.")

    def require_sessions(self) -> None:
        """Raise Problem 503 while session endpoints are turned off."""
        if not self.sessions_enabled:
            raise Problem(
                503,
                "sessions-disabled",
                "Session endpoints are turned off here (ENABLE_CHAT_SESSIONS=false); messages are still tracked.",
            )


def within(verdict: Verdict | None) -> dict[str, str]:
    """Return the headers that tell a limit's verdict; raise Problem 429 for one that refuses."""
    if verdict is None:
        return {}
    if not verdict.allowed:
        raise Problem(
            429,
            "rate-limited",
            f"At most {verdict.limit} {verdict.name} a minute are allowed; try again in {verdict.reset_seconds} s.",
            headers=verdict.headers,
        )
    return verdict.headers
