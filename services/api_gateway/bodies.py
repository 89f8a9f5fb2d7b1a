"""The JSON bodies that calls take. Sizes are for `services.contracts.admission` to judge."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from services.contracts.events import Hours, Metadata, TemplateVersion

_ID: JsonDict = {"minLength": 1, "maxLength": 128}


def whole(value: Any) -> Any:
    """Return a float that is a whole number as one, everything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(whole)
"""Of a whole number: JSON Schema counts 3.0 among them, and some clients write them so."""


class Body(BaseModel):
    """Strict: wrong types and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=to_camel)


class MessageBody(Body):
    """A message to a persona, which it names itself or by its template."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["personaId"],
                    "properties": {"personaId": {"type": "string"}, "templateVersion": {"type": "null"}},
                },
                {"required": ["templateId"], "properties": {"templateId": {"type": "string"}}},
            ]
        }
    )

    persona_id: str | None = Field(
        None, json_schema_extra=_ID, description="With a template: that of the template, or none"
    )
    message: str = Field(min_length=1, description="At most 32 KiB of UTF-8")
    metadata: Metadata = Field(
        default_factory=dict, description="At most 8 KiB; userAgent, ipAddress and deviceInfo are added"
    )
    template_id: str | None = Field(None, json_schema_extra=_ID, description="A template that the message is made of")
    template_version: Annotated[TemplateVersion, Whole] | None = Field(
        None, description="Of the template; else the latest"
    )

    @model_validator(mode="after")
    def _to_someone(self) -> Self:
        if self.persona_id is None and self.template_id is None:
            raise ValueError("give a personaId, or a templateId")
        if self.template_version is not None and self.template_id is None:
            raise ValueError("give the templateId of this templateVersion")
        return self


class CancelBody(Body):
    """Why a session is cancelled."""

    reason: str | None = Field(None, description="At most 2 KiB")


class RetryBody(Body):
    """Of a retry: nothing, everything is as it was."""


class BulkBody(Body):
    """What is to be done with many sessions. Either `filter` or `ids`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["filter"], "properties": {"filter": {"type": "string"}, "ids": {"type": "null"}}},
                {"required": ["ids"], "properties": {"ids": {"type": "array"}, "filter": {"type": "null"}}},
            ]
        }
    )

    action: Literal["cancel", "retry"]
    filter: str | None = Field(None, min_length=1, description="As `q` of a list; of sessions that there are by now")
    ids: list[UUID] | None = Field(None, min_length=1, max_length=1_000)
    reason: str | None = Field(None, description="Of a cancel; at most 2 KiB")
    dry_run: bool = Field(False, description="Tell what would be done, and change nothing")
    per_second: Annotated[int, Whole] = Field(10, ge=1, le=100, description="Sessions looked at each second, at most")

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if (self.filter is None) == (self.ids is None):
            raise ValueError("give either filter or ids")
        return self


class CleanupBody(Body):
    """Which sessions are to time out."""

    max_age_hours: Hours | None = Field(
        None, description="Without activity for so long; else CHAT_SESSION_TIMEOUT_HOURS"
    )
    dry_run: bool = Field(False, description="Count them, and change nothing")
