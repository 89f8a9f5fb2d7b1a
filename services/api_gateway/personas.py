"""Personas: where each one's webhook is, and how it is called."""

import asyncio
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.fernet import Fernet
from pydantic import JsonValue, SecretStr
from pydantic_core import to_json
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.persona_bodies import Auth, PersonaBody
from services.api_gateway.problems import Problem, invalid_body
from services.database.tables import personas
from services.runtime.egress import EgressRules, UrlRefused, check_url

RESOLVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Personas:
    """Reads and writes personas, their credentials encrypted."""

    egress: EgressRules
    secrets_key: Fernet | None
    takes_callbacks: bool

    async def check_addresses(self, body: PersonaBody) -> list[str]:
        """Return warnings about the persona's addresses; raise Problem 400 where the egress rules refuse one."""
        warnings = await self._check_address("webhookUrl", body.webhook_url)
        if body.n8n_api_key is None:
            return warnings
        if body.api_url is None:
            raise invalid_body("n8nApiUrl", "The webhook's address does not show where n8n's API is: give it here.")
        return [*warnings, *await self._check_address("n8nApiUrl", body.api_url)]

    async def _check_address(self, field: str, url: str) -> list[str]:
        """Return warnings about one address; raise Problem 400 where the egress rules refuse it.

        A host that cannot be resolved at the moment is let through with a warning: every call is checked anyway.
        """
        try:
            host, port = check_url(url)
            addresses = await _resolve(host, port)
        except UrlRefused as error:
            raise invalid_body(field, str(error)) from None
        if not addresses:
            return [f"The host {host} could not be resolved; calls will fail until it can."]
        if not self.egress.choose(addresses):
            raise Problem(
                400,
                "address-refused",
                f"The address {addresses[0]} may not be called from here; "
                "its operator can allow it with EGRESS_ALLOW_CIDRS.",
                members={"errors": [{"field": field, "message": "This address may not be called from here."}]},
            )
        return []

    async def put(self, connection: AsyncConnection, persona_id: str, body: PersonaBody, now: datetime) -> Row[Any]:
        """Make or replace the persona and return its row; one that is paused stays so.

        Problem 400 for credentials that cannot be encrypted, and for replies by callback where none can be taken.
        """
        if body.callback_seconds is not None and not self.takes_callbacks:
            raise Problem(
                400,
                "no-callback-url",
                "This gateway takes no replies by callback; its operator must set CALLBACK_BASE_URL first.",
            )
        values = {
            "webhook_url": body.webhook_url,
            "timeout_seconds": body.timeout_seconds,
            "max_attempts": body.max_attempts,
            "deadline_seconds": body.deadline_seconds,
            "first_byte_seconds": body.first_byte_seconds,
            "idle_seconds": body.idle_seconds,
            "idempotent": body.idempotent,
            "callback_seconds": body.callback_seconds,
            "session_timeout_hours": body.session_timeout_hours,
            "auth": self._encrypted(None if body.auth is None else _told(body.auth)),
            "signing_keys": self._encrypted([key.get_secret_value() for key in body.signing_keys]),
            "n8n_api_url": body.api_url,
            "n8n_api_key": self._encrypted(None if body.n8n_api_key is None else body.n8n_api_key.get_secret_value()),
            "updated_at": now,
        }
        statement = insert(personas).values(persona_id=persona_id, created_at=now, **values)
        replace = {personas.c[name]: value for name, value in values.items()}
        statement = statement.on_conflict_do_update(index_elements=[personas.c.persona_id], set_=replace)
        row: Row[Any] = (await connection.execute(statement.returning(personas))).one()
        return row

    def _encrypted(self, secret: JsonValue) -> bytes | None:
        if not secret:
            return None
        if self.secrets_key is None:
            raise Problem(
                400,
                "no-secrets-key",
                "This gateway cannot keep credentials; its operator must set PERSONA_SECRETS_KEY first.",
            )
        return self.secrets_key.encrypt(to_json(secret))


async def read_persona(connection: AsyncConnection, persona_id: str) -> Row[Any] | None:
    """Return the persona's row, None where there is none."""
    return (await connection.execute(select(personas).where(personas.c.persona_id == persona_id))).one_or_none()


async def read_personas(connection: AsyncConnection, after: str | None, limit: int) -> list[Row[Any]]:
    """Return personas in the order of their ids, those after `after`."""
    statement = select(personas).order_by(personas.c.persona_id).limit(limit)
    if after is not None:
        statement = statement.where(personas.c.persona_id > after)
    return list((await connection.execute(statement)).all())


async def set_paused(connection: AsyncConnection, persona_id: str, paused: bool, now: datetime) -> Row[Any] | None:
    """Pause or resume the persona and return its row, None where there is none."""
    change = update(personas).where(personas.c.persona_id == persona_id).values(paused=paused, updated_at=now)
    row: Row[Any] | None = (await connection.execute(change.returning(personas))).one_or_none()
    return row


async def delete_persona(connection: AsyncConnection, persona_id: str) -> bool:
    """Delete the persona; return False where there was none."""
    gone = delete(personas).where(personas.c.persona_id == persona_id).returning(personas.c.persona_id)
    return await connection.scalar(gone) is not None


def shown(row: Row[Any]) -> dict[str, Any]:
    """Return the persona as it is shown: without its credentials."""
    fields = row._asdict()
    secrets = {"auth": "hasAuth", "signingKeys": "hasSigningKeys", "n8nApiKey": "hasN8nApiKey"}
    told = {name: value for name, value in fields.items() if name not in secrets}
    return told | {flag: fields[name] is not None for name, flag in secrets.items()}


def _told(auth: Auth) -> dict[str, JsonValue]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in auth.model_dump().items()
    }


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise UrlRefused("The webhook URL's host is no valid name.") from None
    except (OSError, TimeoutError):
        if ":" in host:
            raise UrlRefused("The webhook URL's host is no address that can be connected to.") from None
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
