"""The vocabulary of a session, shared by every service."""

from enum import StrEnum


class SessionStatus(StrEnum):
    """Where a session stands. Every status but ACTIVE is final."""

    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """True for the four final statuses."""
        return self is not SessionStatus.ACTIVE


class FailureKind(StrEnum):
    """Why a session FAILED, or why one attempt did."""

    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_4XX = "http-4xx"
    HTTP_5XX = "http-5xx"
    NOT_REGISTERED = "not-registered"
    UNAUTHORIZED = "unauthorized"
    WORKFLOW_ERROR = "workflow-error"
    NO_REPLY = "no-reply"
    ACKNOWLEDGED_ONLY = "acknowledged-only"
    BAD_REPLY = "bad-reply"
    TOO_LARGE = "too-large"
    ADDRESS_REFUSED = "address-refused"
    UNKNOWN_PERSONA = "unknown-persona"
    OVERLOADED = "overloaded"
    EXPIRED = "expired"
    CALLBACK_TIMEOUT = "callback-timeout"


class AttemptOutcome(StrEnum):
    """How an attempt went that did not end its session."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    ACCEPTED = "accepted"


class MessageRole(StrEnum):
    """Who wrote a message of a conversation."""

    USER = "user"
    PERSONA = "persona"
