"""What every request passes first: who calls, how often, and whether he may."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from fastapi import Request

from services.api_gateway.audit import AuditLog
from services.api_gateway.auth import Authenticator, Caller
from services.api_gateway.limiting import Limiter
from services.api_gateway.origin import client_address
from services.api_gateway.problems import Problem
from services.api_gateway.scopes import Scope
from services.database.audit_words import WHAT_ACTIONS_DO, Action
from services.runtime.egress import Network


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests in. Every method raises the Problem that answers a request which it keeps out."""

    authenticator: Authenticator
    audit: AuditLog
    reads: Limiter
    sessions_enabled: bool
    proxies: Sequence[Network]

    async def caller(self, request: Request, scope: Scope, action: Action) -> Caller:
        """Return who calls with a token for `scope`, or else put the refusal into the log; counts towards no limit."""
        caller = await self._authenticated(request)
        if not caller.may(scope):
            await self._refuse_scope(caller, scope, action, _route(request))
        return caller

    async def reader(self, request: Request, scope: Scope, action: Action) -> Caller:
        """Return who calls, as `caller` does, within the limit of reads."""
        caller = await self._authenticated(request)
        await self.reads.count(request, caller.user_id)
        if not caller.may(scope):
            await self._refuse_scope(caller, scope, action, _route(request))
        return caller

    async def session_reader(self, request: Request, scope: Scope, action: Action) -> Caller:
        """Return who calls a session endpoint, as `reader` does."""
        caller = await self.reader(request, scope, action)
        self.require_sessions()
        return caller

    async def admin(self, request: Request, scope: Scope, action: Action, target: str) -> Caller:
        """Return the admin who calls, within the limit of reads; a refusal is put into the audit log."""
        caller = await self._authenticated(request)
        await self.reads.count(request, caller.user_id)
        if not caller.may(scope):
            await self._refuse_scope(caller, scope, action, target)
        await self.require_admin(caller, action, target)
        return caller

    async def require_admin(self, caller: Caller, action: Action, target: str) -> None:
        """Raise Problem 403, and put it into the audit log, unless the caller is an admin."""
        if not caller.is_admin:
            await self._refuse(caller, action, target, WHAT_ACTIONS_DO[action])

    async def require_own(self, caller: Caller, action: Action, user_id: str | None) -> None:
        """Raise Problem 403, and put it into the audit log, where a user, no admin, asks for another's sessions."""
        if user_id not in {None, caller.user_id} and not caller.is_admin:
            what = f"{WHAT_ACTIONS_DO[action]} of other users"
            await self._refuse(caller, action, self.audit.target_of(str(user_id)), what)

    def require_sessions(self) -> None:
        """Raise Problem 503 while session endpoints are turned off."""
        if not self.sessions_enabled:
            raise Problem(
                503,
                "sessions-disabled",
                "Session endpoints are turned off here (ENABLE_CHAT_SESSIONS=false); messages are still tracked.",
            )

    async def _refuse(self, caller: Caller, action: Action, target: str, what: str) -> NoReturn:
        await self.audit.record_refusal(caller, action, target, "admin-only")
        raise Problem(403, "admin-only", f"Only a token with the role ADMIN may {what}.")

    async def _refuse_scope(self, caller: Caller, scope: Scope, action: Action, target: str) -> NoReturn:
        """Put the refusal of a token that is not for `scope` into the log, and raise Problem 403 (RFC 6750, 3.1)."""
        await self.audit.record_refusal(caller, action, target, "insufficient-scope")
        raise Problem(
            403,
            "insufficient-scope",
            f"This token may not be used for this: it needs the scope {scope}.",
            headers={"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )

    async def _authenticated(self, request: Request) -> Caller:
        peer = request.scope["client"]
        address = client_address(peer and peer[0], request.headers.getlist("x-forwarded-for"), self.proxies)
        return await self.authenticator.caller(request.headers.get("authorization"), time.time(), address)


def _route(request: Request) -> str:
    # By the route's template: paths hold ids of users' own making.
    return str(request.scope["route"].path)
