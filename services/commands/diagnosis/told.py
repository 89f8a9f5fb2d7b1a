"""How a session's explanation is told: in lines for people, in JSON for scripts. Pure."""

from collections.abc import Iterator

from services.commands.diagnosis.facts import Facts, Reader
from services.commands.diagnosis.timeline import timeline_lines
from services.commands.diagnosis.words import Verdict, shown_error
from services.commands.wording import utc


def lines(facts: Facts, verdict: Verdict) -> Iterator[str]:
    """Yield the sentence, and below it what it rests on."""
    yield verdict.sentence
    if facts.tracked is not None and facts.tracked.error_message:
        yield f"It says: {shown_error(facts.tracked.error_message)}."
    if facts.trace_id is not None:
        yield f"Trace: {facts.trace_id}"
    yield from _kafka_lines(facts)
    for letter in facts.letters:
        done = "" if letter.open else ", replayed" if letter.dropped_by is None else ", dropped"
        yield f"Dead letter: {letter.letter_id} ({letter.reason}, of {letter.group}{done})"
    if facts.timeline:
        yield "Timeline (UTC):"
        yield from timeline_lines(facts.timeline, None if facts.tracked is None else facts.tracked.error_message)


def _kafka_lines(facts: Facts) -> Iterator[str]:
    if facts.kafka_away is not None:
        yield f"Kafka cannot be asked: {facts.kafka_away}."
        return
    yield "In Kafka:" if facts.records else "In Kafka: nothing, as far as it was looked through."
    for record in facts.records:
        yield f"  {record.topic} {record.partition}@{record.offset}  {record.at:%Y-%m-%d %H:%M:%S}  {record.type}"
    if not facts.searched_all:
        yield "  Not everything was looked through: there is too much of it, or Kafka has dropped it."


def document(facts: Facts, verdict: Verdict) -> dict[str, object]:
    """Return what `--json` prints; docs/doctor.md describes it, and fields are only added."""
    tracked = facts.tracked
    return {
        "sessionId": str(facts.session_id),
        "verdict": verdict.code,
        "sentence": verdict.sentence,
        "status": None if tracked is None else tracked.status.value,
        "failureKind": None if tracked is None else tracked.failure_kind,
        "attempts": None if tracked is None else tracked.attempts,
        "traceId": facts.trace_id,
        "records": [
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "at": utc(record.at),
                "type": record.type,
            }
            for record in facts.records
        ],
        "searchedAll": facts.searched_all,
        "deadLetters": [
            {
                "id": letter.letter_id,
                "group": letter.group,
                "reason": letter.reason,
                "open": letter.open,
                "droppedBy": letter.dropped_by,
                "because": letter.because,
            }
            for letter in facts.letters
        ],
        "silent": [silence.name for silence in facts.silent],
        "dispatcher": _told_reader(facts.dispatcher),
        "tracker": _told_reader(facts.tracker),
        "timeline": [dict(entry) for entry in facts.timeline],
        "away": {"postgres": facts.postgres_away, "kafka": facts.kafka_away},
    }


def _told_reader(reader: Reader | None) -> dict[str, int] | None:
    return None if reader is None else {"members": reader.members, "lagRecords": reader.lag}
