"""`/api/users/{userId}/data`: everything about one user, and its erasure."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer
from services.api_gateway.auth import Caller
from services.api_gateway.database import Database
from services.api_gateway.documentation.users import ERASE_USER, EXPORT_USER, GET_ERASURE
from services.api_gateway.downloads import Download, Downloads
from services.api_gateway.erasures import Erasures
from services.api_gateway.exports import Format, Writer, takes_gzip
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query, id_in_path, identifier
from services.api_gateway.problems import Problem, invalid_parameter
from services.api_gateway.scopes import Scope
from services.api_gateway.user_data import UserData
from services.contracts import new_id
from services.database.audit_words import Action, Outcome
from services.runtime.pseudonyms import is_erased

DATA = "/api/users/{userId:path}/data"
"""The id may have slashes in it, as some providers' do."""
ERASURES = "/api/erasures"


@dataclass(frozen=True, slots=True)
class UserRoutes:
    """For admins."""

    gate: Gate
    database: Database
    erasures: Erasures
    downloads: Downloads

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route(DATA, self.export, methods=["GET"], **EXPORT_USER)
        router.add_api_route(DATA, self.erase, methods=["DELETE"], **ERASE_USER)
        router.add_api_route(ERASURES + "/{erasureId}", self.look_up, methods=["GET"], **GET_ERASURE)
        return router

    async def export(self, request: Request) -> Response:
        """Stream everything about a user."""
        caller, user_id = await self._admin(request, Scope.USERS_READ, Action.USER_EXPORT)
        writer = Writer(Format.NDJSON, compressed=takes_gzip(request.headers.get("accept-encoding", "")))
        with self.downloads.beginning() as end:
            async with self.database.statements() as connection:
                target = self.gate.audit.target_of(user_id)
                await self.gate.audit.record(connection, caller, Action.USER_EXPORT, target)
            data = UserData(self.database, user_id, self.gate.audit.name_of(user_id))
            return Download(_written(data, writer), end, writer.headers("user-data"))

    async def erase(self, request: Request) -> Response:
        """Have a user's data erased."""
        caller, user_id = await self._admin(request, Scope.USERS_ERASE, Action.USER_ERASE)
        erasure_id, now = new_id(), datetime.now(UTC)
        async with self.database.transaction() as connection:
            await self.erasures.add(connection, erasure_id, user_id, caller.user_id, now)
            asked = {"erasureId": str(erasure_id)}
            target = self.gate.audit.target_of(user_id)
            await self.gate.audit.record(
                connection, caller, Action.USER_ERASE, target, outcome=Outcome.ASKED, details=asked
            )
        told = await self.erasures.told(erasure_id, now)
        return answer(told, 202, {"location": f"{ERASURES}/{erasure_id}", "retry-after": "1"})

    async def look_up(self, request: Request) -> Response:
        """Tell how far an erasure is."""
        await self.gate.admin(request, Scope.USERS_ERASE, Action.ERASURE_READ, "users")
        Query(request)
        told = await self.erasures.told(id_in_path(request, "erasureId", _no_such_erasure), datetime.now(UTC))
        if told is None:
            raise _no_such_erasure()
        return answer(told)

    async def _admin(self, request: Request, scope: Scope, action: Action) -> tuple[Caller, str]:
        """Return the admin who calls, and the user whom the path names."""
        user_id = request.path_params["userId"]
        caller = await self.gate.admin(request, scope, action, self.gate.audit.target_of(user_id))
        Query(request)
        if is_erased(identifier("userId", user_id)):
            raise invalid_parameter("userId", "It stands for a user whose data was erased.")
        return caller, user_id


def _no_such_erasure() -> Problem:
    return Problem(404, "no-such-erasure", "No erasure with this id was asked for.")


async def _written(data: UserData, writer: Writer) -> AsyncIterator[bytes]:
    async for page in data.pages():
        # Beside the loop, which has other requests to answer.
        yield await asyncio.to_thread(writer.page, page)
    yield writer.end()
