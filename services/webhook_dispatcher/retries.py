"""Whether and when a failed call is made again: pure decisions, with time and chance as arguments."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from services.webhook_dispatcher.delivery import Again, Failed

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0


def retry_delay(
    failed: Failed,
    *,
    attempt: int,
    max_attempts: int,
    idempotent: bool,
    now: datetime,
    seconds_left: float,
    chance: float,
) -> float | None:
    """Return in how many seconds the call is made again, None if it is not.

    `attempt` counts from 1; `seconds_left` is the time to the message's deadline; `chance`, in [0, 1), spreads the
    wait (full jitter). The webhook's own Retry-After is the least wait, within the deadline.
    """
    if attempt >= max_attempts or failed.again is Again.NOBODY:
        return None
    if failed.again is Again.IDEMPOTENT and not idempotent:
        return None
    backoff = chance * min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 10))
    delay = max(backoff, retry_after_seconds(failed.retry_after, now))
    return delay if delay < seconds_left else None


def retry_after_seconds(value: str | None, now: datetime) -> float:
    """Return the seconds that a Retry-After header asks to wait; 0 where there is none or it cannot be read."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
