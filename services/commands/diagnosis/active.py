"""Why a session has not ended. Pure."""

from services.commands.diagnosis.facts import Entry, Facts, Tracked
from services.commands.diagnosis.letters import given_up, stuck
from services.commands.diagnosis.words import (
    SOON_SECONDS,
    Verdict,
    behind,
    get_going,
    moment,
    persona,
    place,
    time_of,
)
from services.commands.wording import counted, duration
from services.contracts.session import AttemptOutcome
from services.contracts.topics import DISPATCHER_GROUP

_ENDING = {"WebhookSucceeded", "WebhookFailed", "CancelRequested"}


def explain_active(facts: Facts, session: Tracked) -> Verdict:
    """Return what the session waits for, and what to do: the first rule that knows."""
    rules = (
        _stuck,
        _not_folded,
        _given_up,
        _silent,
        _attempted,
        _kafka_away,
        _lost,
        _no_dispatcher,
        _paused,
        _in_conversation,
    )
    name = f"Session {facts.session_id}"
    return next(filter(None, (rule(facts, session, name) for rule in rules)), None) or _held(facts, session, name)


def _stuck(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    return stuck(facts, name)


def _given_up(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    attempted = any(entry.get("type") == "WebhookAttempted" for entry in facts.timeline)
    return None if attempted else given_up(facts, name, DISPATCHER_GROUP)


def _not_folded(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    folded = {str(entry.get("type")) for entry in facts.timeline}
    unfolded = next((record for record in facts.records if record.type in _ENDING - folded), None)
    if unfolded is None:
        return None
    told = f"{name} has its {unfolded.type} in Kafka ({place(unfolded)}) since {time_of(unfolded.at)}"
    step = get_going("tracker", facts.tracker)
    return Verdict("result-not-folded", f"{told}, and {behind('tracker', facts.tracker)}; {step}.")


def _silent(facts: Facts, session: Tracked, name: str) -> Verdict | None:
    paused = facts.persona is not None and facts.persona.paused
    if not facts.silent or paused or _is_accepted(facts):
        return None
    first, age = facts.silent[0], duration(max(0.0, (facts.now - session.started_at).total_seconds()))
    told = f"{name} was not finished for {age}, and the {first.name} at {first.told}"
    return Verdict("dispatcher-silent", f"{told}; {first.step}.")


def _is_accepted(facts: Facts) -> bool:
    attempts = [entry for entry in facts.timeline if entry.get("type") == "WebhookAttempted"]
    return bool(attempts) and attempts[-1].get("outcome") == AttemptOutcome.ACCEPTED


def _attempted(facts: Facts, session: Tracked, name: str) -> Verdict | None:
    attempts = [entry for entry in facts.timeline if entry.get("type") == "WebhookAttempted"]
    if not attempts:
        return None
    last = attempts[-1]
    if _is_accepted(facts):
        return _accepted(facts, session, name, last)
    told = f"{name} waits for its next attempt after attempt {last.get('attempt')} failed ({last.get('failureKind')})"
    retry_at = moment(last.get("retryAt"))
    if retry_at is not None and (facts.now - retry_at).total_seconds() > SOON_SECONDS:
        told += f", which was due at {time_of(retry_at)}, and {behind('dispatcher', facts.dispatcher)}"
        return Verdict("retry-overdue", f"{told}; {get_going('dispatcher', facts.dispatcher)}.")
    due = "" if retry_at is None else f", due at {time_of(retry_at)}"
    return Verdict("waits-for-retry", f"{told}{due}: there is nothing to do but wait.")


def _accepted(facts: Facts, session: Tracked, name: str, last: Entry) -> Verdict:
    deadline = session.deadline_at or moment(last.get("deadlineAt"))
    told = f"{name} was accepted by its workflow, which has not posted its reply"
    if deadline is not None and (facts.now - deadline).total_seconds() > SOON_SECONDS:
        told += f" until {time_of(deadline)}, and {behind('tracker', facts.tracker)}, which is to end it"
        return Verdict("callback-overdue", f"{told}; {get_going('tracker', facts.tracker)}.")
    until = "" if deadline is None else f" and may until {time_of(deadline)}"
    return Verdict("waits-for-callback", f"{told}{until}: see its execution in n8n.")


def _kafka_away(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    if facts.kafka_away is None:
        return None
    told = f"{name} is ACTIVE without an attempt, and Kafka cannot be asked why ({facts.kafka_away})"
    return Verdict("kafka-away", f"{told}: see to Kafka, and ask again.")


def _lost(facts: Facts, session: Tracked, name: str) -> Verdict | None:
    step = "run `chat-sessions recover`, which sends it again under its own id"
    fresh = (facts.now - session.started_at).total_seconds() < SOON_SECONDS
    if facts.message is None and facts.searched_all and not fresh:
        told = f"{name} was accepted, and Kafka has its message no longer, so that nobody will call persona"
        return Verdict("lost", f"{told} {persona(session)} for it: {step}.")
    passed = _ahead(facts)
    if passed is not None and passed < 0:
        told = f"{name} was finished by a dispatcher, and its result is neither folded nor in Kafka"
        return Verdict("result-lost", f"{told}: {step}.")
    return None


def _no_dispatcher(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    if facts.dispatcher is None or facts.dispatcher.members:
        return None
    ahead, waiting = _ahead(facts), counted(facts.dispatcher.lag, "message")
    before = "" if ahead is None else f", {ahead} of them before it"
    told = f"{name} was never dispatched: no dispatcher runs, and {waiting} of its partition wait{before}"
    return Verdict("no-dispatcher", f"{told}; start a dispatcher.")


def _paused(facts: Facts, session: Tracked, name: str) -> Verdict | None:
    if facts.persona is None or not facts.persona.paused:
        return None
    told = f"{name} waits because persona {persona(session)} is paused"
    return Verdict("paused", f"{told}: resume it when its workflow is well.")


def _in_conversation(facts: Facts, _: Tracked, name: str) -> Verdict | None:
    if facts.waits_behind is None:
        return None
    told = f"{name} waits in its conversation for session {facts.waits_behind} to end"
    return Verdict("waits-in-conversation", f"{told}: ask `chat-sessions doctor {facts.waits_behind}`.")


def _ahead(facts: Facts) -> int | None:
    """Return how many records a dispatcher has to finish before the message; below 0 it has finished it."""
    if facts.message is None or facts.dispatcher is None:
        return None
    return facts.message.offset - facts.dispatcher.next_offset


def _held(facts: Facts, session: Tracked, name: str) -> Verdict:
    ahead = _ahead(facts)
    age = (facts.now - session.started_at).total_seconds()
    may_take = facts.persona.deadline_seconds if facts.persona is not None else SOON_SECONDS
    if age <= may_take + SOON_SECONDS:
        told = f"{name} is being worked on since {duration(max(0.0, age))}: its call may take "
        return Verdict("running", f"{told}{duration(may_take)} with its retries, so there is nothing to do but wait.")
    before = "" if ahead is None else f", {counted(ahead, 'record')} of its partition before it"
    told = f"{name} was not dispatched for {duration(age)}: {behind('dispatcher', facts.dispatcher)}{before}"
    return Verdict("dispatcher-behind", f"{told}; {get_going('dispatcher', facts.dispatcher)}.")
