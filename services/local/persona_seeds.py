"""The personas that `up` makes at its start: those that are missing, or still are as it made them, and no others."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx

Settings = Mapping[str, Any]
"""What the gateway tells of a persona."""

_NO_SETTINGS = {"paused", "createdAt", "updatedAt", "warnings"}
"""What may change without anybody having set the persona anew."""
_PAGE = 200


class PersonaRefusedError(Exception):
    """The gateway did not take a persona, or tell of them; the message repeats its answer."""


def wanted_personas(
    n8n_url: str, personas: Iterable[str], callback_seconds: Mapping[str, float]
) -> dict[str, Settings]:
    """Return what each persona is to be, with its webhook at `n8n_url`; `callback_seconds` of those that call back."""
    return {
        persona: {"webhookUrl": f"{n8n_url}/webhook/{persona}", "callbackSeconds": callback_seconds.get(persona)}
        for persona in personas
    }


def seed_personas(
    gateway_url: str, wanted: Mapping[str, Settings], made: Mapping[str, Settings], admin_token: Callable[[str], str]
) -> tuple[dict[str, Settings], list[str]]:
    """Make the personas that `wanted` names, except for those that somebody has changed.

    `made` is what earlier calls returned: the personas as they were made. Returns that again, with the new ones, and
    the ids of those that were left though they call another webhook. `admin_token` signs a token for a user id.
    Raises PersonaRefusedError where the gateway says no.
    """
    with httpx.Client(base_url=gateway_url, timeout=10, trust_env=False) as client:
        there = _there(client, admin_token("up"))
        now_made, left = dict(made), []
        for persona, body in wanted.items():
            if not may_be_made(there.get(persona), made.get(persona)):
                left += [persona] if there[persona]["webhookUrl"] != body["webhookUrl"] else []
            elif persona not in there or there[persona]["webhookUrl"] != body["webhookUrl"]:
                # A user each: the lowest rate limit does not hold the start up.
                headers = {"authorization": f"Bearer {admin_token(f'up-{persona}')}"}
                answer = client.put(f"/api/personas/{persona}", json=dict(body), headers=headers)
                now_made[persona] = _settings(_answer(answer, f"the persona {persona}"))
    return now_made, left


def may_be_made(there: Settings | None, made: Settings | None) -> bool:
    """Tell whether nobody has set the persona otherwise than it was made; a pause does not count."""
    return there is None or (made is not None and {**_settings(there), **made} == _settings(there))


def _there(client: httpx.Client, token: str) -> dict[str, Settings]:
    found: dict[str, Settings] = {}
    query: dict[str, str | int] = {"limit": _PAGE}
    while True:
        answer = client.get("/api/personas", params=query, headers={"authorization": f"Bearer {token}"})
        page = _answer(answer, "the list of personas")
        found |= {persona["personaId"]: persona for persona in page["items"]}
        if page["nextCursor"] is None:
            return found
        query["cursor"] = page["nextCursor"]


def _answer(answer: httpx.Response, asked: str) -> dict[str, Any]:
    if answer.is_error:
        raise PersonaRefusedError(f"The gateway refused {asked} ({answer.status_code}): {answer.text[:500]}")
    told: dict[str, Any] = answer.json()
    return told


def _settings(persona: Settings) -> dict[str, Any]:
    return {name: value for name, value in persona.items() if name not in _NO_SETTINGS}
