"""Wrong fields of a body are told by their path, in plain words."""

import pytest

from services.api_gateway.bodies import Body, BulkBody, CleanupBody, MessageBody, RetryBody
from services.api_gateway.parameters import parse_body
from services.api_gateway.persona_bodies import PersonaBody
from services.api_gateway.problems import Problem
from services.api_gateway.template_bodies import TemplateBody

PERSONA = '{"webhookUrl": "http://n8n", %s}'
WRONG: list[tuple[type[Body], str, dict[str, str]]] = [
    (MessageBody, "", {"body": "It is missing: send a JSON object."}),
    (MessageBody, "[]", {"body": "It must be an object."}),
    (MessageBody, '{"message": "m"}', {"body": "Give a personaId, or a templateId."}),
    (MessageBody, '{"metadata": [], "personaId": 1}', {
        "personaId": "It must be a string.",
        "message": "It is missing.",
        "metadata": "It must be an object.",
    }),
    (MessageBody, '{"message": "", "mesage": "m"}', {
        "message": "It has too few characters: the least is 1.",
        "mesage": "It is not known here; known are: personaId, message, metadata, templateId, templateVersion.",
    }),
    (RetryBody, '{"wait": 5}', {"wait": "It is not known here; nothing is."}),
    (BulkBody, '{"action": "stop", "ids": ["x"], "dryRun": 1, "perSecond": "5"}', {
        "action": "It must be 'cancel' or 'retry'.",
        "ids.0": "It must be a UUID.",
        "dryRun": "It must be true or false.",
        "perSecond": "It must be a whole number.",
    }),
    (BulkBody, '{"action": "retry", "ids": "x", "perSecond": 101}', {
        "ids": "It must be a list.",
        "perSecond": "It must be at most 100.",
    }),
    (CleanupBody, '{"maxAgeHours": 0}', {"maxAgeHours": "It must be more than 0."}),
    (CleanupBody, '{"maxAgeHours": "24"}', {"maxAgeHours": "It must be a number."}),
    (PersonaBody, PERSONA % '"auth": {}', {"auth": "Its 'type' is missing."}),
    (PersonaBody, PERSONA % '"auth": {"type": "x"}', {"auth": "Its 'type' must be one of 'basic', 'header', 'jwt'."}),
    (PersonaBody, PERSONA % '"signingKeys": ["secret"]', {"signingKeys": "It must begin with whsec_."}),
    (PersonaBody, PERSONA % '"auth": {"type": "jwt", "secret": "s", "key": 1}', {
        "auth.jwt.key": "It is not known here; known are: type, secret, algorithm.",
    }),
    (TemplateBody, '{"personaId": "p", "callPolicy": {"attempts": 1}}', {
        "callPolicy.attempts": "It is not known here; known are: timeoutSeconds, firstByteSeconds, idleSeconds, "
        "maxAttempts, deadlineSeconds, idempotent.",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("model", "body", "expected"), WRONG, ids=[body[:40] for _, body, _ in WRONG])
def test_each_wrong_field_is_told_in_plain_words(model: type[Body], body: str, expected: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        parse_body(model, body.encode())
    assert refused.value.members["errors"] == [{"field": name, "message": told} for name, told in expected.items()]
    told = " ".join(f"{name}: {message}" for name, message in expected.items())
    assert (refused.value.code, refused.value.detail) == (
        "invalid-body",
        f"The body is not what this call takes: {told}",
    )


def test_of_many_wrong_fields_only_the_first_are_told() -> None:
    with pytest.raises(Problem) as refused:
        parse_body(BulkBody, b'{"action": "cancel", "ids": [%s]}' % b", ".join([b"1"] * 1_000))
    assert len(refused.value.members["errors"]) == 10
