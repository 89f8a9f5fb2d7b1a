"""The form of what services exchange as JSON."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Exchanged(BaseModel):
    """Frozen, camelCase in JSON, and nothing converted; unknown fields are ignored, so that v1 can gain some."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,  # an error goes to the log
    )
