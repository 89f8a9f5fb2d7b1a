"""The JSON bodies that calls take. Sizes are for `services.contracts.admission` to judge."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from services.contracts.events import Hours, Metadata

_ID: JsonDict = {"minLength": 1, "maxLength": 128}


class Body(BaseModel):
    """Strict: wrong types and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=to_camel)


class MessageBody(Body):
    """A message to a persona."""

    persona_id: str = Field(json_schema_extra=_ID)
    message: str = Field(min_length=1, description="At most 32 KiB of UTF-8")
    metadata: Metadata = Field(
        default_factory=dict, description="At most 8 KiB; userAgent, ipAddress and deviceInfo are added"
    )
    template_id: str | None = Field(None, json_schema_extra=_ID)


class CancelBody(Body):
    """Why a session is cancelled."""

    reason: str | None = Field(None, description="At most 2 KiB")


class RetryBody(Body):
    """Of a retry: nothing, everything is as it was."""


class CleanupBody(Body):
    """Which sessions are to time out."""

    max_age_hours: Hours | None = Field(
        None, description="Without activity for so long; else CHAT_SESSION_TIMEOUT_HOURS"
    )
    dry_run: bool = Field(False, description="Count them, and change nothing")
