"""Tokens for the HTTP API: made with the shared secret, and read."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import jwt


def token_for(
    environment: Mapping[str, str],
    secret: str,
    user_id: str,
    *,
    admin: bool,
    lifetime: timedelta,
    scopes: Sequence[str] = (),
    service: str | None = None,
) -> str:
    """A token as mint_token() makes it, good from now on, such as a gateway of this environment takes."""
    return mint_token(
        user_id,
        secret,
        admin=admin,
        now=datetime.now(UTC),
        lifetime=lifetime,
        issuer=environment.get("JWT_ISSUER") or None,
        audience=environment.get("JWT_AUDIENCE") or None,
        scopes=scopes,
        service=service,
    )


def mint_token(
    user_id: str,
    secret: str,
    *,
    admin: bool,
    now: datetime,
    lifetime: timedelta,
    issuer: str | None = None,
    audience: str | None = None,
    scopes: Sequence[str] = (),
    service: str | None = None,
) -> str:
    """An HS256 JWT for `user_id` with the role USER, and ADMIN too if `admin`, good from `now` for `lifetime`.

    `scopes` narrow what it may be used for; `service` is who acts for the user.
    """
    claims: dict[str, object] = {
        "sub": user_id,
        "roles": ["USER", "ADMIN"] if admin else ["USER"],
        "iat": now,
        "exp": now + lifetime,
    }
    if scopes:
        claims["scope"] = " ".join(scopes)
    if service is not None:
        claims["act"] = {"sub": service}
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return jwt.encode(claims, secret, algorithm="HS256")


def user_of(token: str) -> str | None:
    """The user id that a JWT says it stands for, its signature not looked at; None where it says none."""
    try:
        user = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError:
        return None
    return user if isinstance(user, str) and user else None
