"""Personas: where each one's webhook is, and how it is called."""

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import jwt
from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import to_json
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api_gateway.bodies import Body
from services.api_gateway.problems import Problem, invalid_body
from services.database.tables import personas
from services.runtime.egress import EgressRules, UrlRefused, check_url
from services.runtime.signing import read_key

RESOLVE_SECONDS = 5.0
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e]*")
_OURS = {
    "host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "traceparent",
    "webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key",
}  # fmt: skip


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


class JwtAuth(Body):
    """A JSON Web Token made for each call (n8n: JWT Auth, key type passphrase): five minutes, with the body's hash."""

    type: Literal["jwt"]
    secret: SecretStr = Field(max_length=1024, description="At least as many bytes as the algorithm's hash: 32, 48, 64")
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"

    @model_validator(mode="after")
    def _usable_secret(self) -> Self:
        try:
            strict = jwt.PyJWT(options={"enforce_minimum_key_length": True})
            strict.encode({}, self.secret.get_secret_value(), self.algorithm)
        except jwt.PyJWTError:
            raise ValueError(
                f"the secret must be a passphrase of at least {int(self.algorithm[2:]) // 8} bytes, and no PEM key"
            ) from None
        return self


Auth = BasicAuth | HeaderAuth | JwtAuth


class PersonaBody(Body):
    """A persona as an admin sets it: all of it; what is left out takes its default, and credentials are removed."""

    webhook_url: str = Field(min_length=1, max_length=2048, description="http(s) URL of the n8n webhook")
    timeout_seconds: float = Field(10, gt=0, le=300, allow_inf_nan=False, description="Of one call")
    max_attempts: int = Field(3, ge=1, le=100, description="Calls a message, at most")
    deadline_seconds: float = Field(
        60, gt=0, le=86_400, allow_inf_nan=False, description="For a message with all its attempts"
    )
    first_byte_seconds: float | None = Field(
        None,
        gt=0,
        le=300,
        allow_inf_nan=False,
        description="Of one call, from its connection until n8n begins to answer; none: timeoutSeconds alone counts",
    )
    idle_seconds: float | None = Field(
        None,
        gt=0,
        le=300,
        allow_inf_nan=False,
        description="Of one call, between two pieces of its answer; none: timeoutSeconds alone counts",
    )
    idempotent: bool = Field(False, description="Whether the workflow may be called again after it has started")
    auth: Annotated[Auth, Field(discriminator="type")] | None = Field(
        None, description="Credentials for the webhook; never shown again"
    )
    signing_keys: list[SecretStr] = Field(
        default_factory=list,
        max_length=4,
        description="Standard Webhooks keys, `whsec_` and base64: each call carries a signature by each, so that "
        "its receiver can change keys; never shown again",
    )

    @field_validator("signing_keys")
    @classmethod
    def _usable_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        for key in keys:
            read_key(key.get_secret_value())
        return keys


@dataclass(frozen=True, slots=True)
class Personas:
    """Reads and writes personas, their credentials encrypted."""

    egress: EgressRules
    secrets_key: Fernet | None

    async def check_address(self, webhook_url: str) -> list[str]:
        """Return warnings about the address; raise Problem 400 where the egress rules refuse it.

        A host that cannot be resolved at the moment is let through with a warning: every call is checked anyway.
        """
        try:
            host, port = _host_and_port(webhook_url)
            addresses = await _resolve(host, port)
        except UrlRefused as error:
            raise invalid_body("webhookUrl", str(error)) from None
        if not addresses:
            return [f"The host {host} could not be resolved; calls will fail until it can."]
        if not self.egress.choose(addresses):
            raise Problem(
                400,
                "address-refused",
                f"The webhook's address {addresses[0]} may not be called from here; "
                "its operator can allow it with EGRESS_ALLOW_CIDRS.",
                members={"errors": [{"field": "webhookUrl", "message": "This address may not be called from here."}]},
            )
        return []

    async def put(self, connection: AsyncConnection, persona_id: str, body: PersonaBody, now: datetime) -> Row[Any]:
        """Make or replace the persona and return its row; Problem 400 for credentials that cannot be encrypted."""
        values = {
            "webhook_url": body.webhook_url,
            "timeout_seconds": body.timeout_seconds,
            "max_attempts": body.max_attempts,
            "deadline_seconds": body.deadline_seconds,
            "first_byte_seconds": body.first_byte_seconds,
            "idle_seconds": body.idle_seconds,
            "idempotent": body.idempotent,
            "auth": self._encrypted(None if body.auth is None else _told(body.auth)),
            "signing_keys": self._encrypted([key.get_secret_value() for key in body.signing_keys]),
            "updated_at": now,
        }
        statement = insert(personas).values(persona_id=persona_id, created_at=now, **values)
        replace = {personas.c[name]: value for name, value in values.items()}
        statement = statement.on_conflict_do_update(index_elements=[personas.c.persona_id], set_=replace)
        row: Row[Any] = (await connection.execute(statement.returning(personas))).one()
        return row

    def _encrypted(self, secrets: Mapping[str, str] | Sequence[str] | None) -> bytes | None:
        if not secrets:
            return None
        if self.secrets_key is None:
            raise Problem(
                400,
                "no-secrets-key",
                "This gateway cannot keep credentials; its operator must set PERSONA_SECRETS_KEY first.",
            )
        return self.secrets_key.encrypt(to_json(secrets))


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
    auth, signing_keys = fields.pop("auth"), fields.pop("signingKeys")
    return {**fields, "hasAuth": auth is not None, "hasSigningKeys": signing_keys is not None}


def _told(auth: Auth) -> dict[str, str]:
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
