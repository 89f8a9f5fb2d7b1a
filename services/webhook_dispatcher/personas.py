"""The personas' configuration, read from PostgreSQL: what is known serves on while PostgreSQL is away."""

import asyncio
import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import jwt
from cryptography.fernet import Fernet, InvalidToken
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy import ARRAY, Row, Text, any_, bindparam, select
from sqlalchemy.exc import DataError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts.policy import CallPolicy
from services.contracts.secrecy import forms
from services.database.errors import POSTGRES_ERRORS
from services.database.tables import personas
from services.runtime.signing import KEY_PREFIX, read_key
from services.webhook_dispatcher.credentials import NO_CREDENTIALS, Credentials, TokenAlgorithm, TokenKey

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
RETRY_SECONDS = 0.5
LOOK_UP_SECONDS = 10.0
"""A PostgreSQL that takes longer, or has gone without a word, counts as away."""

POSTGRES_FAULTS = (*POSTGRES_ERRORS, PoolTimeoutError)
"""What a query may raise."""
_OUR_OWN_FAULT = (ProgrammingError, DataError, NotSupportedError)


@dataclass(frozen=True, slots=True)
class Persona:
    """How one persona's webhook is called."""

    persona_id: str
    webhook_url: str
    timeout_seconds: float = 10.0
    max_attempts: int = 3
    deadline_seconds: float = 60.0
    idempotent: bool = False
    first_byte_seconds: float | None = None
    idle_seconds: float | None = None
    callback_seconds: float | None = None
    """How long its reply may take to be posted to the callback URL; None where the answer is the reply."""
    credentials: Credentials = NO_CREDENTIALS
    session_timeout_hours: float | None = None
    paused: bool = False
    auth_unreadable: bool = False
    """It has credentials that the key of this process does not decrypt."""
    n8n_api_url: str | None = None
    """Where executions of cancelled sessions are stopped; None where they are not."""
    n8n_api_key: str | None = None
    """None also where the key of this process does not decrypt it."""

    def __repr__(self) -> str:
        return f"Persona({self.persona_id!r})"

    def under(self, policy: CallPolicy | None) -> "Persona":
        """Return the persona as a message with this policy is to call it."""
        return self if policy is None else replace(self, **policy.model_dump(exclude_none=True))


class Personas:
    """Personas by id. `run` must be running; `get` waits for it."""

    def __init__(self, engine: AsyncEngine, secrets_key: Fernet | None) -> None:
        self._engine = engine
        self._secrets_key = secrets_key
        self._known: dict[str, Persona] = {}
        self._rows: dict[str, Row[tuple[object, ...]]] = {}
        """What each was read from: one that did not change is not decrypted again."""
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

    def known(self, persona_id: str) -> Persona | None:
        """Return one that `get` has returned, as it is now; None if it has been deleted since."""
        return self._known.get(persona_id)

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
            async with asyncio.timeout(LOOK_UP_SECONDS):
                found = await self._select(persona_ids)
        except POSTGRES_FAULTS as error:
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

    def _learn(self, persona_id: str, row: Row[tuple[object, ...]] | None) -> None:
        if row is None:
            self._known.pop(persona_id, None)
            self._rows.pop(persona_id, None)
        elif self._rows.get(persona_id) != row:
            self._known[persona_id] = read_persona(row, self._secrets_key)
            self._rows[persona_id] = row
        if (asked := self._asked.pop(persona_id, None)) is not None:
            asked.set_result(self._known.get(persona_id))

    async def _select(self, persona_ids: Sequence[str]) -> dict[str, Row[tuple[object, ...]]]:
        ids = bindparam("ids", list(persona_ids), type_=ARRAY(Text))
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(personas).where(personas.c.persona_id == any_(ids)))
            return {row.persona_id: row for row in rows}


class _Basic(BaseModel):
    type: Literal["basic"]
    username: str
    password: str


class _Header(BaseModel):
    type: Literal["header"]
    name: str
    value: str


class _Jwt(BaseModel):
    type: Literal["jwt"]
    secret: str
    algorithm: TokenAlgorithm


_AUTH: TypeAdapter[_Basic | _Header | _Jwt] = TypeAdapter(
    Annotated[_Basic | _Header | _Jwt, Field(discriminator="type")]
)
_KEYS: TypeAdapter[list[str]] = TypeAdapter(list[str])
_TEXT = TypeAdapter(str)


def read_persona(row: Row[tuple[object, ...]], secrets_key: Fernet | None) -> Persona:
    """Return the persona that a row of the table tells; credentials that cannot be decrypted are marked as such."""
    credentials, unreadable = NO_CREDENTIALS, False
    try:
        credentials = _credentials(row.auth, row.signing_keys, secrets_key)
    except (InvalidToken, ValueError, jwt.PyJWTError):
        unreadable = True
    return Persona(
        persona_id=row.persona_id,
        webhook_url=row.webhook_url,
        timeout_seconds=row.timeout_seconds,
        max_attempts=row.max_attempts,
        deadline_seconds=row.deadline_seconds,
        idempotent=row.idempotent,
        first_byte_seconds=row.first_byte_seconds,
        idle_seconds=row.idle_seconds,
        callback_seconds=row.callback_seconds,
        credentials=credentials,
        session_timeout_hours=row.session_timeout_hours,
        paused=row.paused,
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


def _credentials(auth: bytes | None, signing_keys: bytes | None, secrets_key: Fernet | None) -> Credentials:
    if auth is None and signing_keys is None:
        return NO_CREDENTIALS
    if secrets_key is None:
        raise InvalidToken
    keys = [] if signing_keys is None else _KEYS.validate_json(secrets_key.decrypt(signing_keys))
    header, token_key, secrets = (None, None, []) if auth is None else _auth(secrets_key.decrypt(auth))
    secrets += [key.removeprefix(KEY_PREFIX) for key in keys]
    return Credentials(
        header=header,
        token_key=token_key,
        signing_keys=tuple(read_key(key) for key in keys),
        secrets=tuple({form for secret in secrets for form in forms(secret)}),
    )


def _auth(decrypted: bytes) -> tuple[tuple[str, str] | None, TokenKey | None, list[str]]:
    """Return the header or the key of tokens that the credentials stand for, and what is secret about them."""
    auth = _AUTH.validate_json(decrypted)
    if isinstance(auth, _Jwt):
        token_key = TokenKey(auth.secret, auth.algorithm)
        token_key.token(user_id="", body=b"", now=0)  # raises here, not in a call, if it cannot be a key
        return None, token_key, [auth.secret]
    if isinstance(auth, _Header):
        # Of `Bearer the-token` the token alone is a secret too.
        return (auth.name, auth.value), None, [auth.value, auth.value.rpartition(" ")[2]]
    credentials = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    return ("authorization", f"Basic {credentials}"), None, [auth.password, credentials]
