"""What a call of a webhook proves itself with: a fixed header, a token of its own, signatures. No I/O.

Three ways that n8n checks by itself (basic, header and JWT auth of its Webhook node), and Standard Webhooks signatures,
which any receiver can check.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import jwt

from services.contracts import new_id
from services.runtime.signing import signature

TOKEN_SECONDS = 300
"""How long a token is good for: what Standard Webhooks allow a timestamp, since n8n's clock may differ from ours."""
ISSUER = "chat-sessions"

TokenAlgorithm = Literal["HS256", "HS384", "HS512"]


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Signs a JSON Web Token for each call (n8n: JWT Auth with a passphrase)."""

    secret: str = field(repr=False)
    algorithm: TokenAlgorithm = "HS256"

    def token(self, *, user_id: str, body: bytes, now: float) -> str:
        """Return a token that is good for this body, `now` (Unix seconds) and the five minutes after."""
        claims = {
            "iss": ISSUER,
            "sub": user_id,
            "jti": str(new_id()),
            "iat": int(now),
            "exp": int(now) + TOKEN_SECONDS,
            "bodySha256": hashlib.sha256(body).hexdigest(),
        }
        return jwt.encode(claims, self.secret, algorithm=self.algorithm)


@dataclass(frozen=True, slots=True)
class Proof:
    """What one attempt carries."""

    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """What must not be told if the webhook echoes it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one persona's calls carry; nothing of it by default."""

    header: tuple[str, str] | None = field(default=None, repr=False)
    """Name and value, the same in every call."""
    token_key: TokenKey | None = None
    signing_keys: tuple[bytes, ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What was set for the persona, in every form in which a webhook could tell it: see `secrecy.forms`."""

    def prove(self, *, session_id: str, user_id: str, body: bytes, now: float) -> Proof:
        """Return what an attempt at `now` (Unix seconds) carries. `webhook-id` is the session's id in every attempt."""
        timestamp = int(now)
        headers = {"webhook-id": session_id, "webhook-timestamp": str(timestamp)}
        secrets = self.secrets
        if self.signing_keys:
            headers["webhook-signature"] = signature(
                self.signing_keys, webhook_id=session_id, timestamp=timestamp, body=body
            )
        if self.header is not None:
            headers[self.header[0]] = self.header[1]
        if self.token_key is not None:
            token = self.token_key.token(user_id=user_id, body=body, now=now)
            headers["authorization"] = f"Bearer {token}"
            secrets = (*secrets, token)
        return Proof(headers, secrets)


NO_CREDENTIALS = Credentials()
