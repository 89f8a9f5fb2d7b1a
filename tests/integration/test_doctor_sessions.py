"""`chat-sessions doctor SESSION` beside a real Kafka and PostgreSQL in which no process runs: the sentence is right."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from services.commands.diagnosis.explain import explain
from services.commands.diagnosis.facts import Facts
from services.commands.diagnosis.gather import gather
from services.commands.letters.dispositions import open_dispositions
from services.commands.letters.reading import read_letters
from services.commands.letters.selection import Choice
from services.contracts import BadRecord
from services.contracts.codec import encode
from services.contracts.events import TrackedEvent
from services.contracts.ids import new_id
from services.contracts.session import FailureKind
from services.contracts.topics import MESSAGES, SWEEPS_GROUP, TRACKER_GROUP
from services.database.engine import build_engine
from services.database.partitions import id_at
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.dead_letters import DeadLetter, DeadLetters
from services.runtime.kafka import publish
from services.runtime.settings import KafkaSettings, PostgresSettings
from services.runtime.shutdown import Shutdown
from services.session_tracker.fold import Arrival
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.months import Months
from services.session_tracker.store import SessionStore
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.sweeps import Sweeps
from services.session_tracker.untold import UntoldChunks
from tests.integration.kafka_log import producer, settings_for
from tests.integration.tracker_process import TRACKER_PARTITIONS
from tests.sample_events import SessionEvents, sweep

TRACE = "a" * 32


@dataclass
class System:
    """What doctor looks at, and the tracker's hands without the tracker."""

    kafka: KafkaSettings
    postgres: PostgresSettings
    producer: AIOKafkaProducer
    store: SessionStore
    sweeps: Sweeps

    async def publish(self, *events: TrackedEvent) -> None:
        for event in events:
            await publish(self.producer, encode(event, source="/tests", traceparent=f"00-{TRACE}-{'b' * 16}-01"))

    async def fold(self, *events: TrackedEvent) -> None:
        await self.store.fold([Arrival(event, event.occurred_at, 0, n) for n, event in enumerate(events)], {})

    async def bury(self, event: TrackedEvent) -> None:
        told = encode(event, source="/tests")
        record = ConsumerRecord(MESSAGES.name, 0, 9, 0, 0, told.key, told.value, None, 0, 0, tuple(told.headers))
        letters = DeadLetters(self.producer, TRACKER_GROUP, ConsumerMetrics(CollectorRegistry()))
        await letters.publish([DeadLetter(record, BadRecord("identity-mismatch", "Its user is another."))])

    async def drop(self, session: SessionEvents) -> None:
        letters, _ = await read_letters(self.kafka, self.postgres, Choice(session=str(session.session_id)))
        async with open_dispositions(self.postgres) as dispositions:
            for letter in letters:
                assert await dispositions.drop(letter.stored, "ann", "it was a test")

    async def facts(self, session: SessionEvents) -> Facts:
        return await gather(self.kafka, self.postgres, session.session_id, lambda _: None)

    async def verdicts(self, sessions: Sequence[SessionEvents]) -> list[str]:
        return [explain(await self.facts(session)).code for session in sessions]


@pytest.fixture
async def system(bootstrap: str, postgres_url: str) -> AsyncIterator[System]:
    engine, registry = build_engine(postgres_url), CollectorRegistry()
    months = Months(engine)
    await months.ensure(new_id())
    async with producer(bootstrap) as client:
        store = SessionStore(engine)
        letters = DeadLetters(client, SWEEPS_GROUP, ConsumerMetrics(registry))
        untold, metrics = UntoldChunks(store, client), TrackerMetrics(registry)
        sweeps = Sweeps(SweepStore(engine, store), untold, letters, metrics, Shutdown(), timeout_hours=24)
        yield System(settings_for(bootstrap), PostgresSettings(database_url=postgres_url), client, store, sweeps)
    await engine.dispose()


def begun(conversation: str, *, ago: float = 30.0) -> SessionEvents:
    moment = datetime.now(UTC) - timedelta(seconds=ago)
    return SessionEvents(
        session_id=UUID(int=id_at(moment).int | new_id().int & (1 << 80) - 1), conversation=conversation
    )


async def test_each_session_is_explained_by_what_is_really_there(system: System) -> None:
    completed, failed, cancelled, stale, waiting, answered, lost, unread, buried, dropped, never = (
        begun(f"conversation-{number}") for number in range(11)
    )
    sent = {
        one.session_id: one.sent() for one in (completed, failed, cancelled, stale, waiting, answered, lost, unread)
    }
    await system.publish(*(event for key, event in sent.items() if key != lost.session_id))
    reply = answered.succeeded()
    await system.publish(reply)
    await system.fold(*(event for key, event in sent.items() if key != unread.session_id))
    await system.fold(completed.succeeded(), failed.failed(FailureKind.TIMEOUT), cancelled.cancelled(by="ann"))
    await system.bury(buried.sent())
    await system.bury(dropped.sent())
    await system.drop(dropped)
    expected = {
        "completed": completed, "failed": failed, "cancelled": cancelled, "no-dispatcher": waiting,
        "result-not-folded": answered, "lost": lost, "not-folded": unread, "dead-lettered": buried,
        "letter-dropped": dropped, "unknown": never,
    }  # fmt: skip
    assert await system.verdicts([*expected.values()]) == [*expected]

    facts = await system.facts(waiting)
    assert [(record.type, record.topic) for record in facts.records] == [("MessageSent", MESSAGES.name)]
    assert (facts.trace_id, facts.searched_all) == (TRACE, True)
    assert facts.dispatcher is not None
    assert facts.dispatcher.members == 0
    assert facts.dispatcher.lag >= 1
    assert "no dispatcher runs" in explain(facts).sentence

    # Whatever is still ACTIVE is swept.
    await system.store.move_progress({(p.topic, p.partition): datetime.now(UTC) for p in TRACKER_PARTITIONS})
    await system.sweeps.run(sweep(as_of=datetime.now(UTC) - timedelta(seconds=5), max_age_hours=0.001))
    timed_out = explain(await system.facts(stale))
    assert timed_out.code == "timed-out"
    assert "because nothing had happened for 0.001 hours: no attempt was ever told" in timed_out.sentence


async def test_a_look_that_is_cut_short_says_so(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun("conversation")
    await system.publish(session.sent())
    monkeypatch.setattr("services.commands.diagnosis.search.MOST_RECORDS", 0)
    facts = await system.facts(session)
    assert (facts.records, facts.searched_all) == ([], False)
    assert "nor any of the records that were looked through" in explain(facts).sentence


async def test_what_cannot_be_asked_is_named(system: System) -> None:
    away = PostgresSettings(database_url="postgresql://nobody:secret@127.0.0.1:1/none")
    session = begun("conversation")
    await system.publish(session.sent())
    facts = await gather(system.kafka, away, session.session_id, lambda _: None)
    verdict = explain(facts)
    assert verdict.code == "postgres-away"
    assert "; Kafka has 1 record of it: start PostgreSQL." in verdict.sentence
    assert "secret" not in verdict.sentence
    no_kafka = KafkaSettings(kafka_bootstrap_servers="127.0.0.1:1")
    verdict = explain(await gather(no_kafka, system.postgres, session.session_id, lambda _: None))
    assert verdict.code == "kafka-away"
    assert "Kafka at 127.0.0.1:1 is out of reach" in verdict.sentence
