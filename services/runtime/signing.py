"""Symmetric signatures of Standard Webhooks: what proves that a webhook was called from here. No I/O.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

KEY_PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64
"""Of a key: the specification's own bounds."""


def read_key(text: str) -> bytes:
    """Return the key that `whsec_` and base64 stand for; raise ValueError, without the text, where they stand for none.

    Padding may be missing, as in the specification's own libraries.
    """
    encoded = text.removeprefix(KEY_PREFIX)
    if encoded == text:
        raise ValueError(f"it must begin with {KEY_PREFIX}")
    try:
        key = base64.b64decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"after {KEY_PREFIX} it must be base64") from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"it must stand for {FEWEST_BYTES} to {MOST_BYTES} bytes")
    return key


def signature(keys: Iterable[bytes], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature a key, so that receivers may change keys one by one.

    `webhook_id` must hold no full stop; `timestamp`, in Unix seconds, is that of the attempt.
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
