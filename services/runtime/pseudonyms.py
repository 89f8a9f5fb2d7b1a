"""Names for end users that do not say who they are, the same in every process with the same key."""

import hashlib
import hmac

UNNAMED = "unnamed"
ERASED = "erased:"
"""Begins the user id of sessions whose user's data was erased; no token may carry such an id."""


class Pseudonyms:
    """Turns a user's id into a keyed hash: without the key nobody can tell, or try out, whose it is."""

    def __init__(self, key: bytes | None) -> None:
        """Use `key`; without one all users have the same name."""
        self._key = key

    def of(self, user_id: str) -> str:
        """Return the user's name, 32 hexadecimal digits; `unnamed` where there is no key.

        Of the id that stands for an erased user it is the name that he had before.
        """
        if is_erased(user_id):
            return user_id.removeprefix(ERASED)
        if self._key is None:
            return UNNAMED
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:32]

    def erased(self, user_id: str) -> str:
        """Return the id that stands for the user in what is left once his data is erased."""
        return ERASED + self.of(user_id)

    def stands_for(self, erased_id: str, user_id: str) -> bool:
        """Tell whether an id of `erased` is this user's; never where there is no key, for then it is everyone's."""
        return self._key is not None and is_erased(erased_id) and erased_id == self.erased(user_id)


def is_erased(user_id: str) -> bool:
    """Tell whether an id stands for a user whose data was erased."""
    return user_id.startswith(ERASED)
