"""Callback URLs: where a workflow that only acknowledged a message posts its reply, up to a deadline.

The dispatcher makes them and the gateway reads them, with nothing but a shared secret between the two. What a URL
stands for is inside it, encrypted and authenticated (Fernet): who holds one can neither read it, nor change it, nor
make another one of it. https://github.com/fernet/spec/blob/master/Spec.md
"""

import base64
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import TypeAdapter

PATH = "/api/callbacks/"
"""Of the gateway; the token follows."""
MAX_TOKEN_CHARACTERS = 4096
"""Room for the longest ids, even of characters that JSON writes as six bytes."""


class Callback(NamedTuple):
    """One call of a webhook, and until when its reply may be posted."""

    session_id: UUID
    conversation_id: str
    persona_id: str
    user_id: str
    attempt: int
    called_at: datetime
    deadline_at: datetime


_CALLBACK = TypeAdapter(Callback)


class CallbackUrls:
    """Makes and reads the URLs below one gateway's address, with a key of their own derived from `secret`."""

    def __init__(self, base_url: str, secret: bytes) -> None:
        self._prefix = base_url.rstrip("/") + PATH
        key = HKDF(SHA256(), length=32, salt=None, info=b"chat-sessions callback urls v1").derive(secret)
        self._key = Fernet(base64.urlsafe_b64encode(key))

    def url(self, callback: Callback) -> str:
        """Return a URL for the callback. Whoever knows it may end the session: it belongs into no log and no event."""
        return self._prefix + self._key.encrypt(_CALLBACK.dump_json(callback)).decode()

    def read(self, token: str) -> Callback | None:
        """Return what the last part of a URL stands for, None if it was not made with this key. Looks at no clock."""
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            return None
        try:
            return _CALLBACK.validate_json(self._key.decrypt(token))
        except InvalidToken:
            return None


def token_of(url: str) -> str:
    """Return the secret part of a callback URL."""
    return url.rpartition("/")[2]
