"""A template as an admin sets it, and what it makes of a message. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from services.api_gateway.bodies import Body, Whole
from services.contracts.admission import admit_id, admit_metadata
from services.contracts.errors import NotAdmitted
from services.contracts.events import Metadata
from services.contracts.policy import CallPolicy, MostAttempts

TAGS = "tags"
"""The entry of a session's metadata that holds its tags: a list of texts."""
MOST_TAGS = 20

Tag = Annotated[str, Field(min_length=1, max_length=128)]


class WholeCallPolicy(CallPolicy):
    """How the template's messages are called; what is left out, or null, is the persona's own."""

    model_config = ConfigDict(extra="forbid", title="CallPolicy")

    max_attempts: Annotated[MostAttempts, Whole] | None = Field(None, description="Calls, at most")


class TemplateBody(Body):
    """A template as an admin sets it: all of it."""

    persona_id: str = Field(json_schema_extra={"minLength": 1, "maxLength": 128})
    call_policy: WholeCallPolicy = Field(default_factory=WholeCallPolicy)
    metadata: Metadata = Field(
        default_factory=dict,
        description="Of its messages, where they do not say otherwise; at most 8 KiB with tags, which are not in it",
        json_schema_extra={"not": {"required": [TAGS]}},
    )
    tags: list[Tag] = Field(
        default_factory=list, max_length=MOST_TAGS, description="Put into `metadata.tags`, beside a message's own"
    )

    @field_validator("tags")
    @classmethod
    def _each_once(cls, tags: list[str]) -> list[str]:
        return list(dict.fromkeys(tags))

    @model_validator(mode="after")
    def _storable(self) -> "TemplateBody":
        if TAGS in self.metadata:
            raise ValueError("give the tags as tags, not in metadata")
        try:
            admit_id("personaId", self.persona_id)
            admit_metadata({**self.metadata, TAGS: [*self.tags]})
        except NotAdmitted as error:
            raise ValueError(error.explanation) from None
        return self

    @property
    def stored(self) -> dict[str, Any]:
        """The columns of a version that it gives."""
        return {
            "persona_id": self.persona_id,
            "call_policy": self.call_policy.model_dump(by_alias=True, exclude_none=True),
            "metadata": self.metadata,
            "tags": self.tags,
        }


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a template, as messages are made of it."""

    template_id: str
    version: int
    persona_id: str
    call_policy: CallPolicy | None = None
    metadata: Metadata = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def with_defaults(self, metadata: Mapping[str, Any]) -> Metadata:
        """Return a message's metadata with the template's beside it.

        The message's own entries count. Its `tags` are added to the template's; where they are no list, they stay.
        """
        both = {**self.metadata, **metadata}
        own = metadata.get(TAGS, [])
        if self.tags and isinstance(own, list):
            both[TAGS] = [*self.tags, *(tag for tag in own if tag not in self.tags)]
        return both
