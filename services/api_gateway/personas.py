"""Personas: where each one's webhook is, and how it is called."""

import asyncio
import re
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from cryptography.fernet import Fernet
from pydantic import Field, JsonValue, SecretStr, field_validator
from pydantic_core import to_json
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.bodies import Body
from services.api_gateway.problems import Problem, invalid_body
from services.database.tables import personas
from services.runtime.egress import EgressRules, UrlRefused, check_url

RESOLVE_SECONDS = 5.0
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e]*")
_WEBHOOK = re.compile(r"([a-z]+://[^?#]+?)/webhook(?:-test)?/")
_OURS = {
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "idempotency-key",
    "callback-url",
}


class BasicAuth(Body):
    """User name and password (RFC 7617)."""

    type: Literal["basic"]
    username: str = Field(max_length=256, pattern=r"^[^:\x00-\x1f\x7f]*$")
    password: SecretStr = Field(max_length=1024)


class HeaderAuth(Body):
    """A header that the webhook asks for."""

    type: Literal["header"]
    name: str = Field(max_length=128)
    value: SecretStr = Field(min_length=1, max_length=4096)

    @field_validator("name")
    @classmethod
    def _sendable_name(cls, name: str) -> str:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS:
            raise ValueError("it must be the name of a header that this system does not set itself")
        return name

    @field_validator("value")
    @classmethod
    def _sendable_value(cls, value: SecretStr) -> SecretStr:
        if not _HEADER_TEXT.fullmatch(value.get_secret_value()):
            raise ValueError("it must be printable ASCII on one line")
        return value


class PersonaBody(Body):
    """A persona as an admin sets it: all of it; what is left out takes its default, and credentials are removed."""

    webhook_url: str = Field(min_length=1, max_length=2048, description="http(s) URL of the n8n webhook")
    timeout_seconds: float = Field(10, gt=0, le=300, allow_inf_nan=False, description="Of one call")
    max_attempts: int = Field(3, ge=1, le=100, description="Calls a message, at most")
    deadline_seconds: float = Field(
        60, gt=0, le=86_400, allow_inf_nan=False, description="For a message with all its attempts"
    )
    idempotent: bool = Field(False, description="Whether the workflow may be called again after it has started")
    callback_seconds: float | None = Field(
        None,
        gt=0,
        le=604_800,
        allow_inf_nan=False,
        description="The workflow only acknowledges, and posts its reply to `callbackUrl` within so long; null: it "
        "answers with its reply",
    )
    auth: Annotated[BasicAuth | HeaderAuth, Field(discriminator="type")] | None = Field(
        None, description="Credentials for the webhook; never shown again"
    )
    n8n_api_key: SecretStr | None = Field(
        None,
        alias="n8nApiKey",
        min_length=1,
        max_length=4096,
        description="Key of n8n's API with the scope execution:stop: cancelling a session then stops its execution, "
        "where the workflow names it; never shown again",
    )
    n8n_api_url: str | None = Field(
        None,
        alias="n8nApiUrl",
        min_length=1,
        max_length=2048,
        description="Of n8n's API, for the key; default: that of the webhook's n8n",
    )

    @field_validator("n8n_api_key")
    @classmethod
    def _sendable_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _HEADER_TEXT.fullmatch(key.get_secret_value()):
            raise ValueError("it must be printable ASCII on one line")
        return key

    @property
    def api_url(self) -> str | None:
        """Where n8n's API is; None without a key for it, and where neither address says."""
        if self.n8n_api_key is None:
            return None
        beside = _WEBHOOK.match(self.webhook_url)
        return self.n8n_api_url or (f"{beside[1]}/api/v1" if beside else None)


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
            host, port = _host_and_port(url)
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
        """Make or replace the persona and return its row.

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
            "idempotent": body.idempotent,
            "callback_seconds": body.callback_seconds,
            "auth": self._encrypted(None if body.auth is None else _plain(body.auth)),
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
        if secret is None:
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


async def delete_persona(connection: AsyncConnection, persona_id: str) -> bool:
    """Delete the persona; return False where there was none."""
    gone = delete(personas).where(personas.c.persona_id == persona_id).returning(personas.c.persona_id)
    return await connection.scalar(gone) is not None


def shown(row: Row[Any]) -> dict[str, Any]:
    """Return the persona as it is shown: without its credentials."""
    fields = row._asdict()
    secrets = {"auth": "hasAuth", "n8nApiKey": "hasN8nApiKey"}
    told = {name: value for name, value in fields.items() if name not in secrets}
    return told | {flag: fields[name] is not None for name, flag in secrets.items()}


def _plain(auth: BasicAuth | HeaderAuth) -> dict[str, JsonValue]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in auth.model_dump().items()
    }


def _host_and_port(webhook_url: str) -> tuple[str, int]:
    # Parsers drop such characters, and not all the same ones.
    if any(character <= " " or character == "\x7f" for character in webhook_url):
        raise UrlRefused("The webhook URL contains spaces or control characters.")
    return check_url(webhook_url)


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
