"""What is told as JSON is the same whoever writes it."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import orjson
import pytest
from asyncpg.pgproto import pgproto
from pydantic_core import from_json, to_json

from services.api_gateway.json_text import as_json
from services.contracts import SessionStatus

AT = datetime(2026, 11, 20, 12, 0, 0, 120, UTC)
VALUES = [
    AT,
    AT.replace(microsecond=0),
    AT.astimezone(timezone(timedelta(hours=5, minutes=30))),
    UUID(int=7),
    SessionStatus.TIMEOUT,
    {SessionStatus.TIMEOUT: 1},
    ("ü\u2028", 'a"\\', None, True, 1.5, -0.0, 2**63),
    {"big": 10**30, "at": AT},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_it_is_as_pydantic_has_it(value: object) -> None:
    assert as_json({"it": value}) == to_json({"it": value})


def test_ids_of_the_driver_are_ids() -> None:
    assert from_json(as_json([pgproto.UUID(bytes(16))])) == [str(UUID(int=0))]


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Unable to serialize"):
        as_json({"it": object()})
    with pytest.raises(TypeError):
        orjson.dumps(10**30)
