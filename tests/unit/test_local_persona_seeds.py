"""Which personas `up` makes again: never one that a person has set."""

import pytest

from services.local.persona_seeds import may_be_made, wanted_personas

MADE = {"personaId": "echo", "webhookUrl": "http://n8n/webhook/echo", "timeoutSeconds": 10.0, "hasAuth": False}
THERE = {**MADE, "paused": False, "updatedAt": "2026-11-23T12:00:00Z"}


@pytest.mark.parametrize(
    ("there", "made", "may_be"),
    [
        (None, None, True),
        (None, MADE, True),
        (THERE, MADE, True),
        ({**THERE, "paused": True, "updatedAt": "later"}, MADE, True),
        ({**THERE, "fieldOfALaterRelease": 1}, MADE, True),
        ({**THERE, "timeoutSeconds": 33.0}, MADE, False),
        ({**THERE, "webhookUrl": "http://mine/webhook/echo"}, MADE, False),
        ({**THERE, "hasAuth": True}, MADE, False),
        (THERE, None, False),
    ],
)
def test_only_what_is_missing_or_as_it_was_made_is_made_again(
    there: dict[str, object] | None, made: dict[str, object] | None, may_be: bool
) -> None:
    assert may_be_made(there, made) is may_be


def test_what_a_persona_is_to_be() -> None:
    assert wanted_personas("http://n8n", ["a", "b"], {"b": 3.0}) == {
        "a": {"webhookUrl": "http://n8n/webhook/a", "callbackSeconds": None},
        "b": {"webhookUrl": "http://n8n/webhook/b", "callbackSeconds": 3.0},
    }
