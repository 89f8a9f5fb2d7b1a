"""The personas' configuration, read from PostgreSQL: what is known serves on while PostgreSQL is away."""

import asyncio
import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import asyncpg
from cryptography.fernet import Fernet, InvalidToken
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy import ARRAY, Row, Text, any_, bindparam, select
from sqlalchemy.exc import DataError, DBAPIError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.database.tables import personas

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
RETRY_SECONDS = 0.5

_OUR_OWN_FAULT = (ProgrammingError, DataError, NotSupportedError)
_AWAY = (DBAPIError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Persona:
    """How one persona's webhook is called."""

    persona_id: str
    webhook_url: str
    timeout_seconds: float = 10.0
    max_attempts: int = 3
    deadline_seconds: float = 60.0
    idempotent: bool = False
    callback_seconds: float | None = None
    """How long its reply may take to be posted to the callback URL; None where the answer is the reply."""
    auth_header: tuple[str, str] | None = None
    auth_unreadable: bool = False
    """It has credentials that the key of this process does not decrypt."""
    n8n_api_url: str | None = None
    """Where executions of cancelled sessions are stopped; None where they are not."""
    n8n_api_key: str | None = None
    """None also where the key of this process does not decrypt it."""

    def __repr__(self) -> str:
        return f"Persona({self.persona_id!r})"


class Personas:
    """Personas by id. `run` must be running; `get` waits for it."""

    def __init__(self, engine: AsyncEngine, secrets_key: Fernet | None) -> None:
        self._engine = engine
        self._secrets_key = secrets_key
        self._known: dict[str, Persona] = {}
        self._asked: dict[str, asyncio.Future[Persona | None]] = {}
        self._wanted = asyncio.Event()
        self._fault: str | None = None

    async def get(self, persona_id: str) -> Persona | None:
        """Return the persona, None if there is none. Waits while PostgreSQL is away and the id is not known."""
        if (persona := self._known.get(persona_id)) is not None:
            return persona
        if (asked := self._asked.get(persona_id)) is None:
            asked = self._asked[persona_id] = asyncio.get_running_loop().create_future()
            self._wanted.set()
        # Others may wait for the same answer: whoever gives up waiting must not cancel it.
        return await asyncio.shield(asked)

    def not_ready(self) -> str | None:
        """Return why personas cannot be read at the moment, None if they can."""
        return self._fault

    async def run(self) -> None:
        """Look up what is asked for at once, and all that is known every 5 seconds, in one query."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + REFRESH_SECONDS
        while True:
            await self._until(refresh_at)
            due = loop.time() >= refresh_at
            if await self._look_up([*self._asked, *(self._known if due else ())]):
                refresh_at = loop.time() + REFRESH_SECONDS if due else refresh_at
            else:
                await asyncio.sleep(RETRY_SECONDS)

    async def _until(self, refresh_at: float) -> None:
        if not self._asked:
            self._wanted.clear()
            timer = asyncio.get_running_loop().call_at(refresh_at, self._wanted.set)
            try:
                await self._wanted.wait()
            finally:
                timer.cancel()

    async def _look_up(self, persona_ids: Sequence[str]) -> bool:
        if not persona_ids:
            return True
        try:
            found = await self._select(persona_ids)
        except _AWAY as error:
            if isinstance(error, _OUR_OWN_FAULT):
                raise
            if self._fault is None:
                logger.warning("Personas cannot be read from PostgreSQL, trying again until it answers: %r", error)
            self._fault = "Personas cannot be read: PostgreSQL does not answer. Messages to unknown ones wait."
            return False
        self._fault = None
        for persona_id in persona_ids:
            self._learn(persona_id, found.get(persona_id))
        return True

    def _learn(self, persona_id: str, persona: Persona | None) -> None:
        if persona is None:
            self._known.pop(persona_id, None)
        else:
            self._known[persona_id] = persona
        if (asked := self._asked.pop(persona_id, None)) is not None:
            asked.set_result(persona)

    async def _select(self, persona_ids: Sequence[str]) -> dict[str, Persona]:
        ids = bindparam("ids", list(persona_ids), type_=ARRAY(Text))
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(personas).where(personas.c.persona_id == any_(ids)))
            return {row.persona_id: read_persona(row, self._secrets_key) for row in rows}


class _Basic(BaseModel):
    type: Literal["basic"]
    username: str
    password: str


class _Header(BaseModel):
    type: Literal["header"]
    name: str
    value: str


_TEXT = TypeAdapter(str)
_AUTH: TypeAdapter[_Basic | _Header] = TypeAdapter(Annotated[_Basic | _Header, Field(discriminator="type")])


def read_persona(row: Row[tuple[object, ...]], secrets_key: Fernet | None) -> Persona:
    """Return the persona that a row of the table tells; credentials that cannot be decrypted are marked as such."""
    auth_header, unreadable = None, False
    if row.auth is not None:
        try:
            auth_header = _auth_header(row.auth, secrets_key)
        except (InvalidToken, ValidationError):
            unreadable = True
    return Persona(
        persona_id=row.persona_id,
        webhook_url=row.webhook_url,
        timeout_seconds=row.timeout_seconds,
        max_attempts=row.max_attempts,
        deadline_seconds=row.deadline_seconds,
        idempotent=row.idempotent,
        callback_seconds=row.callback_seconds,
        auth_header=auth_header,
        auth_unreadable=unreadable,
        n8n_api_url=row.n8n_api_url,
        n8n_api_key=_n8n_api_key(row.n8n_api_key, secrets_key),
    )


def _n8n_api_key(encrypted: bytes | None, secrets_key: Fernet | None) -> str | None:
    if encrypted is None or secrets_key is None:
        return None
    try:
        return _TEXT.validate_json(secrets_key.decrypt(encrypted))
    except (InvalidToken, ValidationError):
        return None


def _auth_header(encrypted: bytes, secrets_key: Fernet | None) -> tuple[str, str]:
    if secrets_key is None:
        raise InvalidToken
    auth = _AUTH.validate_json(secrets_key.decrypt(encrypted))
    if isinstance(auth, _Header):
        return auth.name, auth.value
    credentials = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    return "authorization", f"Basic {credentials}"
