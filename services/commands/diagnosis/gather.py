"""Gathers everything that is known of one session: from PostgreSQL, and from Kafka, each as far as it answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from services.commands.diagnosis.facts import Facts, FoundLetter, Reader
from services.commands.diagnosis.rows import PostgresSilent, Rows, read_rows
from services.commands.diagnosis.search import Progress, Search, Window
from services.commands.groups import Group, read_group
from services.commands.letters.reading import read_letters
from services.commands.letters.selection import Choice, Letter, State
from services.contracts.ids import id_time
from services.contracts.topics import CONTROL, DISPATCHER_GROUP, MESSAGES, RESULTS, TRACKER_GROUP
from services.runtime.dead_letter_tools import KafkaUnavailable
from services.runtime.kafka import build_admin, build_reader
from services.runtime.placement import partition_of
from services.runtime.reachability import why_unreachable
from services.runtime.settings import KafkaSettings, PostgresSettings

_BEFORE, _AFTER = timedelta(minutes=1), timedelta(minutes=2)
"""How far a record's time may be from its event's: publishers' clocks, and the way to Kafka."""
_FIRST = timedelta(minutes=10)
"""How long after its id was made a message that nobody has tracked is looked for on every partition."""
_TIME_VERSION = 7


async def gather(kafka: KafkaSettings, postgres: PostgresSettings, session_id: UUID, progress: Progress) -> Facts:
    """Return what is known; what does not answer is named in it, and nothing is raised for it."""
    minted = id_time(session_id) if session_id.version == _TIME_VERSION else None
    facts = Facts(session_id=session_id, id_time=minted, now=datetime.now(UTC))
    if minted is None or minted > facts.now + _FIRST:
        return facts
    rows: Rows | None = None
    try:
        rows = await read_rows(postgres, session_id, minted)
    except PostgresSilent as error:
        facts = replace(facts, postgres_away=str(error))
    else:
        facts = _with_rows(facts, rows)
    try:
        choice = Choice(since=minted - _BEFORE, session=str(session_id))
        letters, _ = await read_letters(kafka, postgres, choice)
        facts = replace(facts, letters=[_letter(letter) for letter in letters])
        return await _with_kafka(facts, kafka, minted, None if rows is None else rows.folded_up_to, progress)
    except KafkaConnectionError:
        return replace(facts, kafka_away=(await why_unreachable(kafka)).rstrip("."))
    except KafkaUnavailable as error:
        return replace(facts, kafka_away=str(error).rstrip("."))
    except KafkaError as error:
        return replace(facts, kafka_away=repr(error))


def _with_rows(facts: Facts, rows: Rows) -> Facts:
    return replace(
        facts,
        tracked=rows.tracked,
        timeline=rows.timeline,
        persona=rows.persona,
        waits_behind=rows.waits_behind,
        acknowledged_at=rows.acknowledged_at,
        asked=rows.asked,
        month_dropped=rows.month_dropped,
    )


async def _with_kafka(
    facts: Facts, settings: KafkaSettings, minted: datetime, folded: datetime | None, progress: Progress
) -> Facts:
    reader = build_reader(settings, client_id="chat-sessions-doctor")
    try:
        await reader.start()
        # First how far the groups are: what they finish meanwhile is then found.
        groups = await _groups(settings, reader)
        search = Search(facts.session_id, progress)
        await _search(search, reader, facts, minted, folded)
    finally:
        await reader.stop()
    conversation = _conversation(facts, search)
    dispatcher, tracker = (_reader(group, conversation) for group in groups)
    return replace(
        facts,
        records=sorted(search.found, key=lambda found: found.at),
        dispatcher=dispatcher,
        tracker=tracker,
        searched_all=search.whole and facts.now - minted < MESSAGES.retention,
    )


async def _groups(settings: KafkaSettings, reader: AIOKafkaConsumer) -> list[Group]:
    admin = build_admin(settings)
    try:
        await admin.start()
        return [await read_group(admin, reader, group) for group in (DISPATCHER_GROUP, TRACKER_GROUP)]
    finally:
        await admin.close()


async def _search(
    search: Search, reader: AIOKafkaConsumer, facts: Facts, minted: datetime, folded: datetime | None
) -> None:
    if facts.tracked is None:
        # Nobody knows its conversation, so its message may be on any partition.
        everywhere = [TopicPartition(MESSAGES.name, number) for number in range(MESSAGES.partitions)]
        await search.look(reader, everywhere, [(minted - _BEFORE, minted + _FIRST)])
    conversation = _conversation(facts, search)
    if conversation is not None:
        partition = partition_of(conversation)
        places = [TopicPartition(topic.name, partition) for topic in (MESSAGES, RESULTS, CONTROL)]
        await search.look(reader, places, windows(facts, minted, folded))


def windows(facts: Facts, minted: datetime, folded: datetime | None) -> list[Window]:
    """Return when the session's records can have been written: around its known events, and what is not folded yet.

    `folded` is up to when its partition is folded; where nobody knows, everything since its id was made may be new.
    """
    known = [minted, *(datetime.fromisoformat(str(entry["at"])) for entry in facts.timeline)]
    spans = [(moment - _BEFORE, moment + _AFTER) for moment in known]
    since = minted if folded is None else max(minted, folded)
    return [*spans, (since - _BEFORE, max(since, facts.now) + _AFTER)]


def _conversation(facts: Facts, search: Search) -> str | None:
    if facts.tracked is not None:
        return facts.tracked.conversation_id
    return next((found.conversation_id for found in search.found), None)


def _reader(group: Group, conversation: str | None) -> Reader | None:
    if conversation is None:
        return None
    number = partition_of(conversation)
    own = [where for place, where in group.places.items() if place.partition == number]
    messages = group.places[TopicPartition(MESSAGES.name, number)]
    return Reader(group.members, messages.next_offset, sum(where.lag for where in own))


def _letter(letter: Letter) -> FoundLetter:
    stored = letter.stored
    decision = letter.disposition
    dropped = decision is not None and decision.state is State.DROPPED
    return FoundLetter(
        stored.letter_id,
        stored.topic,
        stored.group,
        stored.reason,
        stored.error,
        letter.is_open,
        place=(stored.partition, stored.offset),
        dropped_by=decision.decided_by if decision is not None and dropped else None,
        because=decision.because if decision is not None and dropped else None,
    )
