"""What is told, as JSON. No I/O."""

from typing import Any
from uuid import UUID

import orjson
from pydantic_core import to_json


def as_json(content: Any) -> bytes:
    """Return the content as JSON: times in UTC with a Z, ids and statuses as text."""
    try:
        return orjson.dumps(content, default=_id, option=orjson.OPT_UTC_Z)
    except TypeError:
        # It knows everything, such as whole numbers of any size, which metadata may hold; in several times the time.
        return to_json(content)


def _id(value: Any) -> str:
    # The driver has a class of its own for them.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
