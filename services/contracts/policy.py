"""How patiently a webhook is called: what a persona says of it, and a message may say instead."""

from typing import Annotated

from pydantic import Field

from services.contracts.exchanged import Exchanged

CallSeconds = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]
"""Of one call, or of a part of it."""
DeadlineSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
"""Of a message with all its attempts."""
MostAttempts = Annotated[int, Field(ge=1, le=100)]


class CallPolicy(Exchanged):
    """What holds for one message's calls in place of its persona's own settings; what is absent is the persona's."""

    timeout_seconds: CallSeconds | None = Field(None, description="Of one call")
    first_byte_seconds: CallSeconds | None = Field(
        None, description="Of one call, from its connection until n8n begins to answer"
    )
    idle_seconds: CallSeconds | None = Field(None, description="Of one call, between two pieces of its answer")
    max_attempts: MostAttempts | None = Field(None, description="Calls, at most")
    deadline_seconds: DeadlineSeconds | None = Field(None, description="For the message with all its attempts")
    idempotent: bool | None = Field(None, description="Whether the workflow may be called again after it has started")
