"""Setting up templates of messages."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer, page_answer
from services.api_gateway.database import Database
from services.api_gateway.documentation.templates import (
    DELETE_TEMPLATE,
    GET_TEMPLATE,
    GET_TEMPLATE_VERSION,
    LIST_TEMPLATE_VERSIONS,
    LIST_TEMPLATES,
    PUT_TEMPLATE,
)
from services.api_gateway.gate import Gate
from services.api_gateway.parameters import Query, identifier, parse_body, read_body
from services.api_gateway.personas import read_persona
from services.api_gateway.problems import no_such_persona, no_such_template, no_such_version
from services.api_gateway.scopes import Scope
from services.api_gateway.template_bodies import TemplateBody
from services.api_gateway.templates import (
    delete_template,
    put_template,
    read_template,
    read_templates,
    read_version,
    read_versions,
    shown,
)
from services.database.audit_words import Action

MOST_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TemplateRoutes:
    """For admins. Every change stands in the audit log, in the same transaction."""

    gate: Gate
    database: Database

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        path = "/api/templates/{templateId}"
        router.add_api_route("/api/templates", self.list, methods=["GET"], **LIST_TEMPLATES)
        router.add_api_route(path, self.put, methods=["PUT"], **PUT_TEMPLATE)
        router.add_api_route(path, self.get, methods=["GET"], **GET_TEMPLATE)
        router.add_api_route(path, self.delete, methods=["DELETE"], **DELETE_TEMPLATE)
        router.add_api_route(f"{path}/versions", self.versions, methods=["GET"], **LIST_TEMPLATE_VERSIONS)
        router.add_api_route(f"{path}/versions/{{version}}", self.version, methods=["GET"], **GET_TEMPLATE_VERSION)
        return router

    async def list(self, request: Request) -> Response:
        """List templates by id, each in its latest version."""
        await self.gate.admin(request, Scope.TEMPLATES_READ, Action.TEMPLATE_LIST, "templates")
        query = Query(request, "limit", "cursor")
        limit = query.limit()
        async with self.database.statements() as connection:
            rows = await read_templates(connection, query.identifier("cursor"), limit + 1)
        return page_answer([shown(row) for row in rows], limit, "templateId")

    async def put(self, request: Request) -> Response:
        """Make a template, or its next version; one that says what the latest says already is that one."""
        template_id = _template_id(request)
        caller = await self.gate.admin(request, Scope.TEMPLATES_WRITE, Action.TEMPLATE_PUT, template_id)
        Query(request)
        body = parse_body(TemplateBody, await read_body(request))
        async with self.database.transaction() as connection:
            if await read_persona(connection, body.persona_id) is None:
                raise no_such_persona(body.persona_id)
            row = await put_template(connection, template_id, body, caller.user_id)
            await self.gate.audit.record(
                connection, caller, Action.TEMPLATE_PUT, template_id, details={"version": row.version}
            )
        return answer(shown(row))

    async def get(self, request: Request) -> Response:
        """Tell a template's latest version."""
        template_id = _template_id(request)
        await self.gate.admin(request, Scope.TEMPLATES_READ, Action.TEMPLATE_GET, template_id)
        Query(request)
        async with self.database.statements() as connection:
            row = await read_template(connection, template_id)
        if row is None:
            raise no_such_template(template_id)
        return answer(shown(row))

    async def delete(self, request: Request) -> Response:
        """Delete a template: messages can name it no more. Its versions can be read."""
        template_id = _template_id(request)
        caller = await self.gate.admin(request, Scope.TEMPLATES_WRITE, Action.TEMPLATE_DELETE, template_id)
        Query(request)
        async with self.database.transaction() as connection:
            if not await delete_template(connection, template_id):
                raise no_such_template(template_id)
            await self.gate.audit.record(connection, caller, Action.TEMPLATE_DELETE, template_id)
        return Response(status_code=204)

    async def versions(self, request: Request) -> Response:
        """List a template's versions, the newest first."""
        template_id = _template_id(request)
        await self.gate.admin(request, Scope.TEMPLATES_READ, Action.TEMPLATE_GET, template_id)
        query = Query(request, "limit", "cursor")
        limit = query.limit()
        before = query.integer("cursor", MOST_VERSION, low=1, high=MOST_VERSION)
        async with self.database.statements() as connection:
            rows = await read_versions(connection, template_id, before, limit + 1)
        if not rows and before == MOST_VERSION:
            raise no_such_template(template_id)
        return page_answer([shown(row) for row in rows], limit, "version")

    async def version(self, request: Request) -> Response:
        """Tell one version of a template."""
        template_id = _template_id(request)
        await self.gate.admin(request, Scope.TEMPLATES_READ, Action.TEMPLATE_GET, template_id)
        Query(request)
        version = _version_of(request.path_params["version"])
        async with self.database.statements() as connection:
            row = None if version is None else await read_version(connection, template_id, version)
            if row is None:
                has_others = await read_versions(connection, template_id, MOST_VERSION, 1)
                raise no_such_version(template_id, version) if has_others else no_such_template(template_id)
        return answer(shown(row))


def _template_id(request: Request) -> str:
    return identifier("templateId", request.path_params["templateId"])


def _version_of(text: str) -> int | None:
    """Return the version in the path, None where it is no number that one can have."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_VERSION))
    return int(text) if is_number and int(text) <= MOST_VERSION else None
