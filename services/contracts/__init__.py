"""What services say to one another. This package alone is enough to publish and to read chat events."""

from services.contracts.admission import admit
from services.contracts.codec import Record, decode, encode
from services.contracts.errors import BadRecord, NotAdmitted, UndecodableRecord
from services.contracts.events import (
    CancelRequested,
    ErasureRequested,
    Event,
    MessageSent,
    ReplyDelta,
    SessionChanged,
    TimeoutSweep,
    WebhookAttempted,
    WebhookFailed,
    WebhookSucceeded,
)
from services.contracts.ids import new_id
from services.contracts.session import AttemptOutcome, FailureKind, MessageRole, SessionStatus

__all__ = [
    "AttemptOutcome",
    "BadRecord",
    "CancelRequested",
    "ErasureRequested",
    "Event",
    "FailureKind",
    "MessageRole",
    "MessageSent",
    "NotAdmitted",
    "Record",
    "ReplyDelta",
    "SessionChanged",
    "SessionStatus",
    "TimeoutSweep",
    "UndecodableRecord",
    "WebhookAttempted",
    "WebhookFailed",
    "WebhookSucceeded",
    "admit",
    "decode",
    "encode",
    "new_id",
]
