"""The shape of an erasure's receipt, for the OpenAPI document."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from services.api_gateway.answer_models import Shape


class Remains(Shape):
    """Where Kafka still has what was published before an erasure, until its own retention deletes it."""

    topic: str
    until: datetime = Field(description="The latest: a record lives at most twice its topic's retention")


class Erasure(Shape):
    """What became of a user's data."""

    erasure_id: UUID
    user: str = Field(description="As the audit log names the user: user: and a keyed hash")
    requested_by: str
    before: datetime = Field(description="Sessions that began before it are erased, whenever their events come")
    state: Literal["running", "finished"]
    created_at: datetime
    finished_at: datetime | None
    conversations: int = Field(description="As all counts here: so far, until it is finished")
    sessions: int
    messages: int
    events: int
    remains: list[Remains]
