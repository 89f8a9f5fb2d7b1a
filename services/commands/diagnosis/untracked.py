"""Why there is no row of a session. Pure."""

from services.commands.diagnosis.facts import Facts
from services.commands.diagnosis.letters import given_up, stuck
from services.commands.diagnosis.words import (
    SOON_SECONDS,
    Verdict,
    behind,
    get_going,
    place,
    time_of,
)
from services.commands.wording import counted
from services.contracts.topics import MESSAGES, TRACKER_GROUP


def explain_untracked(facts: Facts) -> Verdict:
    """Return why the session is in no row, and what to do: the first rule that knows."""
    rules = (_postgres_away, _dropped, _refused, _given_up, _not_folded, _kafka_away, _never_kept)
    return next(filter(None, (rule(facts) for rule in rules)), None) or _unknown(facts)


def _postgres_away(facts: Facts) -> Verdict | None:
    if facts.postgres_away is None:
        return None
    found = f"Kafka has {counted(len(facts.records), 'record')} of it" if facts.kafka_away is None else "Kafka neither"
    told = f"Session {facts.session_id} cannot be read, since PostgreSQL does not answer ({facts.postgres_away})"
    return Verdict("postgres-away", f"{told}; {found}: start PostgreSQL.")


def _dropped(facts: Facts) -> Verdict | None:
    if not facts.month_dropped:
        return None
    step = "nothing of it is left but statistics, as CHAT_SESSION_RETENTION_DAYS asks for"
    return Verdict("dropped", f"Session {facts.session_id} was dropped by retention with its whole month: {step}.")


def _refused(facts: Facts) -> Verdict | None:
    return stuck(facts, f"Session {facts.session_id}")


def _given_up(facts: Facts) -> Verdict | None:
    return given_up(facts, f"Session {facts.session_id}", TRACKER_GROUP)


def _not_folded(facts: Facts) -> Verdict | None:
    if facts.message is None:
        return None
    told = f"Session {facts.session_id} is not tracked yet: Kafka has its message ({place(facts.message)})"
    step = get_going("tracker", facts.tracker)
    return Verdict("not-folded", f"{told}, and {behind('tracker', facts.tracker)}; {step}.")


def _kafka_away(facts: Facts) -> Verdict | None:
    if facts.kafka_away is None:
        return None
    told = f"Session {facts.session_id} is in no row, and Kafka cannot be asked for its message"
    return Verdict("kafka-away", f"{told} ({facts.kafka_away}): see to Kafka, and ask again.")


def _never_kept(facts: Facts) -> Verdict | None:
    if facts.acknowledged_at is not None:
        told = f"Session {facts.session_id} was accepted at {time_of(facts.acknowledged_at)}, and Kafka has lost its"
        step = "let its user send it again, and see what Kafka lost"
        return Verdict("lost", f"{told} message before it was tracked: {step}.")
    if facts.asked:
        told = f"Session {facts.session_id} was asked for, and Kafka never acknowledged its message"
        step = "the same request with its Idempotency-Key sends it again, safely"
        return Verdict("not-acknowledged", f"{told}: {step}.")
    return None


def _unknown(facts: Facts) -> Verdict:
    told = f"There is no session {facts.session_id}"
    if facts.id_time is None:
        why = "the id is no UUIDv7, and this system makes no others; check where it comes from"
    elif (facts.id_time - facts.now).total_seconds() > SOON_SECONDS:
        why = f"its id is of {time_of(facts.id_time)}, which is still to come; check where it comes from"
    elif facts.now - facts.id_time > MESSAGES.retention:
        days = MESSAGES.retention.days
        why = f"no row, record or dead letter names it, and Kafka keeps messages for {days} days; check the id"
    elif not facts.searched_all:
        why = "no row or dead letter names it, nor any of the records that were looked through; check the id"
    else:
        why = "no row, record or dead letter names it, so its POST was refused or never made; check the id"
    return Verdict("unknown", f"{told}: {why}.")
