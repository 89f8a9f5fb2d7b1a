"""Names for end users that do not say who they are, the same in every process with the same key."""

import hashlib
import hmac

UNNAMED = "unnamed"


class Pseudonyms:
    """Turns a user's id into a keyed hash: without the key nobody can tell, or try out, whose it is."""

    def __init__(self, key: bytes | None) -> None:
        """Use `key`; without one all users have the same name."""
        self._key = key

    def of(self, user_id: str) -> str:
        """Return the user's name, 32 hexadecimal digits; `unnamed` where there is no key."""
        if self._key is None:
            return UNNAMED
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:32]
