"""Who is calling: bearer tokens, verified with pinned algorithms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jwt

from services.api_gateway.cache import BoundedCache
from services.api_gateway.problems import Problem
from services.api_gateway.scopes import Scope, WrongClaim, scopes_of, service_of
from services.contracts import NotAdmitted
from services.contracts.admission import admit_id
from services.runtime.pseudonyms import is_erased

MAX_TOKEN_CHARACTERS = 8192
LONGEST_CACHED_SECONDS = 300.0
CACHED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that a verified token speaks for."""

    user_id: str
    is_admin: bool
    service: str | None = None
    """The service that acts for him, if he does not himself."""
    scopes: frozenset[Scope] | None = None
    """What the token may be used for; None is all that its user may do."""
    address: str | None = None
    """Where the request came from."""
    expires_at: float = math.inf
    """When his token does, in Unix seconds."""

    def may(self, scope: Scope) -> bool:
        """Tell whether the token may be used for this."""
        return self.scopes is None or scope in self.scopes


class Keys(Protocol):
    """Where the keys come from that tokens are verified with."""

    async def key(self, header: Mapping[str, Any], now: float) -> tuple[Any, list[str]] | None:
        """Return the key for a token with this header and the algorithms allowed with it; None if there is none."""

    async def close(self) -> None:
        """Let go of what the keys need."""


class SecretKey:
    """One shared secret, HS256."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def key(self, header: Mapping[str, Any], now: float) -> tuple[Any, list[str]] | None:
        """Return the secret, whatever the header says."""
        return self._secret, ["HS256"]

    async def close(self) -> None:
        """Nothing is held."""


class Authenticator:
    """Turns an Authorization header into a Caller; what was verified is remembered until it expires (≤ 5 minutes)."""

    def __init__(self, keys: Keys, *, issuer: str | None, audience: str | None) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._known: BoundedCache[str, tuple[Caller, float]] = BoundedCache(CACHED_TOKENS)

    async def caller(self, authorization: str | None, now: float, address: str | None = None) -> Caller:
        """Return who calls from `address` at `now` (Unix seconds); raise Problem 401 for no or an invalid token."""
        token = _bearer(authorization)
        known = self._known.get(token)
        if known is not None and known[1] > now:
            caller, until = known
            if caller.address == address:
                return caller
            caller = replace(caller, address=address)
        else:
            caller = _caller_of(await self._verified(token, now), address)
            until = min(caller.expires_at, now + LONGEST_CACHED_SECONDS)
        self._known.put(token, (caller, until))
        return caller

    async def _verified(self, token: str, now: float) -> dict[str, Any]:
        try:
            found = await self._keys.key(jwt.get_unverified_header(token), now)
            if found is None:
                raise _refused("The token names a key that is not known here.")
            key, algorithms = found
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
            claims["exp"] = float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise _refused("The token has expired; get a new one.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _refused("The token is not valid here.") from None
        return claims


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise Problem(
            401,
            "token-missing",
            "Send a token in the header `Authorization: Bearer …`.",
            headers={"www-authenticate": "Bearer"},
        )
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 1 <= len(token) <= MAX_TOKEN_CHARACTERS:
        raise _refused("The Authorization header carries no bearer token.")
    return token


def _caller_of(claims: Mapping[str, Any], address: str | None) -> Caller:
    try:
        admit_id("sub", claims["sub"])
        service, scopes = service_of(claims), scopes_of(claims)
        if service is not None:
            admit_id("act.sub", service)
    except NotAdmitted as error:
        raise _refused(f"The token is not valid here: {error.explanation}") from None
    except WrongClaim as error:
        raise _refused(f"The token is not valid here: {error}") from None
    if is_erased(claims["sub"]):
        raise _refused("The token is not valid here: its `sub` is what stands for a user whose data was erased.")
    roles = claims.get("roles", [])
    is_admin = isinstance(roles, list) and "ADMIN" in roles
    return Caller(claims["sub"], is_admin, service, scopes, address, claims["exp"])


def _refused(detail: str) -> Problem:
    return Problem(401, "invalid-token", detail, headers={"www-authenticate": 'Bearer error="invalid_token"'})
