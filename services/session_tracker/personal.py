"""Which of a session's metadata is personal data, and from when on it is absent. No I/O, no clock."""

from datetime import datetime, timedelta

from services.contracts.events import MessageSent, Metadata, TrackedEvent
from services.contracts.ids import id_time
from services.session_tracker.lifecycle import Session

PERSONAL_KEYS = ("ipAddress", "userAgent", "deviceInfo")
"""What the gateway adds to metadata about the person's device. What an application adds is its own to judge."""

AHEAD = timedelta(hours=1)
"""Events are folded without personal data so much earlier than sessions lose theirs: a batch under way while a session
comes of age would otherwise bring it back."""


def without_personal(metadata: Metadata) -> Metadata:
    """Return the metadata without its personal keys."""
    return {key: value for key, value in metadata.items() if key not in PERSONAL_KEYS}


def foldable(event: TrackedEvent, now: datetime, keep: timedelta | None) -> TrackedEvent:
    """Return the event as it may be written at `now`: without personal data if its session is `keep` old, or nearly.

    None keeps everything.
    """
    if keep is None or not isinstance(event, MessageSent) or id_time(event.session_id) > now - keep + AHEAD:
        return event
    return event.model_copy(update={"metadata": without_personal(event.metadata)})


def without_texts(session: Session) -> Session:
    """Return the session without what its user, or a persona for him, may have written into it."""
    return session._replace(metadata={}, error_message=None)
