"""What is told about a user, for the tests."""

import json
from typing import Any

from services.runtime.pseudonyms import Pseudonyms
from tests.integration.gateway import HASH_KEY, ROOT, Gateway

SECRET = "kangaroo"
NAMES = Pseudonyms(HASH_KEY.encode())
ERASED = NAMES.erased("ada")
DATA = "/api/users/ada/data"


async def lines(gateway: Gateway, path: str = DATA, **headers: str) -> list[dict[str, Any]]:
    answer = await gateway.http.get(path, headers={**ROOT, **headers})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def kinds(told: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = told[-1]["counts"]
    assert [line["kind"] for line in (told[0], told[-1])] == ["user", "end"]
    assert found == {kind: sum(line["kind"] == kind for line in told[:-1]) for kind in found}
    return found
