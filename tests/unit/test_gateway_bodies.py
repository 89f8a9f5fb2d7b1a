"""Bodies take what their schemas call a whole number, and nothing else for one."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from services.api_gateway.bodies import Body, BulkBody, MessageBody
from services.api_gateway.persona_bodies import PersonaBody
from services.api_gateway.template_bodies import TemplateBody

BODIES: list[tuple[type[Body], str]] = [
    (BulkBody, '{"action": "cancel", "filter": "status:ACTIVE", "perSecond": %s}'),
    (MessageBody, '{"message": "m", "templateId": "t", "templateVersion": %s}'),
    (PersonaBody, '{"webhookUrl": "https://n8n.example/webhook/x", "maxAttempts": %s}'),
    (TemplateBody, '{"personaId": "p", "callPolicy": {"maxAttempts": %s}}'),
]


@pytest.mark.parametrize(("model", "body"), BODIES, ids=[model.__name__ for model, _ in BODIES])
def test_a_whole_number_may_have_a_fraction_of_zero(model: type[Body], body: str) -> None:
    numbers = [value for value in _leaves(model.model_validate_json(body % "3.0").model_dump()) if value == 3]
    assert [type(number) for number in numbers] == [int]
    for wrong in ("3.5", '"3"', "true", "1e400", "-1.0", "[3]"):
        with pytest.raises(ValidationError):
            model.model_validate_json(body % wrong)


def test_each_integer_of_a_body_may() -> None:
    for model, body in BODIES:
        told = json.dumps(model.model_json_schema())
        assert told.count('"integer"') == body.count("%s"), model


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    return [value]
