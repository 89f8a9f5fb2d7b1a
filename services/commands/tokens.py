"""Tokens for the HTTP API, signed with the shared secret."""

from datetime import datetime, timedelta

import jwt


def mint_token(
    user_id: str,
    secret: str,
    *,
    admin: bool,
    now: datetime,
    lifetime: timedelta,
    issuer: str | None = None,
    audience: str | None = None,
) -> str:
    """An HS256 JWT for `user_id` with the role USER, and ADMIN too if `admin`, good from `now` for `lifetime`."""
    claims: dict[str, object] = {
        "sub": user_id,
        "roles": ["USER", "ADMIN"] if admin else ["USER"],
        "iat": now,
        "exp": now + lifetime,
    }
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return jwt.encode(claims, secret, algorithm="HS256")
