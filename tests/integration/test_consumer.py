"""BatchConsumer on a real broker: what is committed, what is read again, and who has which partition."""

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from services.runtime.faults import PassingFault
from services.runtime.records import RawRecord
from tests.engine import admin_of, on_apache_kafka
from tests.integration.group_member import Ledger, member
from tests.integration.kafka_log import (
    Sent,
    committed,
    eventually,
    fresh_name,
    make_topics,
    producer,
    send,
    until_committed,
)
from tests.patience import PATIENT_SECONDS


@pytest.fixture
def group_id() -> str:
    return fresh_name("group")


@pytest.fixture
async def topic(broker: str) -> str:
    name = fresh_name("topic")
    await make_topics(broker, [name])
    return name


def numbered(count: int, *, start: int = 0, partition: int | None = 0) -> list[Sent]:
    return [Sent(str(number).encode(), partition=partition) for number in range(start, start + count)]


async def test_a_restart_reads_what_was_not_done(broker: str, group_id: str, topic: str) -> None:
    await send(broker, topic, numbered(10))
    first = Ledger()
    first.done_before = 4
    async with member(broker, group_id, [topic], first) as running:
        await eventually(lambda: len(first.taken) == 10, "all ten records were taken")
        lag = {"group": group_id, "topic": topic, "partition": "0"}
        await eventually(
            lambda: running.measured("chat_consumer_lag_records", lag) == 6, "the lag showed six unfinished records"
        )
    second = Ledger()
    async with member(broker, group_id, [topic], second) as running:
        await eventually(lambda: len(second.taken) >= 6, "the rest was read again")
        assert [record.offset for record in second.taken] == [4, 5, 6, 7, 8, 9]
        assert running.shutdown.exit_code == 0


async def test_what_is_done_is_committed_every_second(broker: str, group_id: str, topic: str) -> None:
    work = Ledger()
    async with member(broker, group_id, [topic], work):
        await send(broker, topic, numbered(3))
        await until_committed(broker, group_id, TopicPartition(topic, 0), 3)


async def test_a_passing_fault_rewinds_every_partition_and_shows_while_it_lasts(broker: str, group_id: str) -> None:
    topics = [fresh_name("a"), fresh_name("b")]
    await make_topics(broker, topics, partitions=2)
    for name in topics:
        await send(broker, name, [record for p in (0, 1) for record in numbered(20, partition=p)])
    work = Ledger()
    spans: list[int] = []
    passing = asyncio.Event()

    def fail(records: Sequence[RawRecord]) -> None:
        if not passing.is_set():
            spans.append(len({(r.topic, r.partition) for r in records}))
            raise PassingFault("The store is away.")

    work.trouble = fail
    async with member(broker, group_id, topics, work) as running:
        await eventually(lambda: running.consumer.not_ready() == "The store is away.", "readiness showed the fault")
        # Only batches of several partitions show that more than the first record's partition goes back.
        await eventually(lambda: max(spans) > 1 and len(spans) > 2, "a batch of several partitions was retried")
        assert not work.taken
        passing.set()
        await eventually(lambda: len(work.taken) == 80, "every record was taken")
        await eventually(lambda: running.consumer.not_ready() is None, "readiness was back")
        assert (running.measured("chat_consumer_retried_batches_total", {"group": group_id}) or 0) >= 3
        assert running.shutdown.exit_code == 0
    for name in topics:
        for partition in (0, 1):
            offsets = [r.offset for r in work.taken if (r.topic, r.partition) == (name, partition)]
            assert offsets == list(range(20))


async def test_a_bug_stops_the_process_and_commits_nothing_past_it(broker: str, group_id: str, topic: str) -> None:
    work = Ledger()

    def stumble(records: Sequence[RawRecord]) -> None:
        if any(record.value == b"bug" for record in records):
            raise KeyError("a bug")

    work.trouble = stumble
    async with member(broker, group_id, [topic], work) as running:
        await send(broker, topic, numbered(3))
        await eventually(lambda: len(work.taken) == 3, "the first records were taken")
        await send(broker, topic, [Sent(b"bug", partition=0)])
        await eventually(lambda: running.shutdown.requested, "the bug asked the process to stop")
        await send(broker, topic, numbered(3, start=4))
        assert running.shutdown.exit_code == 1
    again = Ledger()
    async with member(broker, group_id, [topic], again):
        await eventually(lambda: b"6" in again.values(), "the next process read on")
        assert again.values()[-4:] == [b"bug", b"4", b"5", b"6"]
    assert len(work.taken) == 3


async def test_a_second_member_shares_and_takes_over_with_nothing_lost(broker: str, group_id: str) -> None:
    topics = [fresh_name("messages"), fresh_name("results")]
    await make_topics(broker, topics, partitions=3)
    sent = 0

    async def send_some() -> None:
        nonlocal sent
        for name in topics:
            await send(broker, name, [r for p in range(3) for r in numbered(25, start=sent, partition=p)])
        sent += 25

    def everything(*works: Ledger) -> bool:
        seen = {(r.topic, r.partition, r.offset) for work in works for r in work.taken}
        return seen == {(name, p, offset) for name in topics for p in range(3) for offset in range(sent)}

    first, second = Ledger(), Ledger()
    async with member(broker, group_id, topics, first) as one:
        await send_some()
        await eventually(lambda: everything(first), "one member read all")
        async with member(broker, group_id, topics, second) as two:
            await eventually(lambda: {len(first.ours), len(second.ours)} == {2, 4}, "both had partitions")
            # Partition i of all topics meets in one process; with three partitions only the Range assignor does that.
            for work in (first, second):
                by_topic = [{p.partition for p in work.ours if p.topic == name} for name in topics]
                assert by_topic[0] == by_topic[1]
            await send_some()
            await eventually(lambda: everything(first, second), "two members read all")
            await one.stop()
            await send_some()
            await eventually(lambda: len(second.ours) == 6, "the second member took over all partitions")
            await eventually(lambda: everything(first, second), "the second member read the rest")
            assert (one.shutdown.exit_code, two.shutdown.exit_code) == (0, 0)
    for work in (first, second):
        assert not work.told


async def test_null_keys_values_and_headers_do_not_disturb(broker: str, group_id: str, topic: str) -> None:
    odd = [
        Sent(b"good", key=b"k", headers=[("ce_type", b"x")], partition=0),
        Sent(None, key=None, headers=[("ce_type", None), ("", b"\xff\xfe")], partition=0),
        Sent(b"", key=b"", headers=[("same", b"1"), ("same", None)], partition=0),
        Sent(b"\xff" * (2**21 - 4096), partition=0),
        Sent(b"good again", partition=0),
    ]
    await send(broker, topic, odd)
    work = Ledger()
    async with member(broker, group_id, [topic], work) as running:
        await eventually(lambda: len(work.taken) == len(odd), "all records were taken")
        assert [Sent(r.value, r.key, list(r.headers), r.partition) for r in work.taken] == [
            sent._replace(headers=list(sent.headers)) for sent in odd
        ]
        assert running.shutdown.exit_code == 0


async def test_stop_commits_and_leaves_the_group(broker: str, group_id: str, topic: str) -> None:
    await send(broker, topic, numbered(5))
    # The embedded broker counts generations from 0, and aiokafka takes leave only from 1 on: the second one shows it.
    work = Ledger()
    async with member(broker, group_id, [topic], work):
        await eventually(lambda: len(work.taken) == 5, "the records were taken")
    async with member(broker, group_id, [topic], Ledger()):
        pass
    assert await committed(broker, group_id, TopicPartition(topic, 0)) == 5
    async with admin_of(broker) as client:
        described = await client.describe_consumer_groups([group_id])
    members = described[0].groups[0][5]  # type: ignore[attr-defined]
    assert members == []


async def test_records_wait_until_the_work_knows_its_partitions(broker: str, group_id: str, topic: str) -> None:
    await send(broker, topic, numbered(5))
    work = Ledger()
    told = asyncio.Event()

    async def until_told() -> None:
        await told.wait()

    work.on_assigned = until_told
    async with member(broker, group_id, [topic], work) as running:
        consumer = running.consumer.consumer
        partition = TopicPartition(topic, 0)
        # The records have left the client's buffer: only the work's ignorance holds them back.
        await eventually(lambda: consumer.highwater(partition) == 5, "the records had been fetched")
        assert running.consumer.not_ready() is not None
        assert not work.taken
        told.set()
        await eventually(lambda: len(work.taken) == 5, "the records were taken")
        assert running.shutdown.exit_code == 0
        assert running.consumer.not_ready() is None


async def test_a_returned_partition_is_not_set_back_to_what_was_done_before(broker: str, group_id: str) -> None:
    topic = fresh_name("topic")
    await make_topics(broker, [topic], partitions=2)
    partitions = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
    await send(broker, topic, [r for p in (0, 1) for r in numbered(10, partition=p)])
    staying, passing_by = Ledger(), Ledger()
    async with member(broker, group_id, [topic], staying) as running:
        await eventually(lambda: len(staying.taken) == 20, "the first records were taken")
        back = asyncio.Event()
        slow = asyncio.Event()
        async with member(broker, group_id, [topic], passing_by):
            await eventually(lambda: len(staying.ours) == len(passing_by.ours) == 1, "each had one partition")
            (moved,) = passing_by.ours
            # As a work would that forgets the last assignment only once it knows the next one.
            staying.offsets.add([r for r in staying.taken if r.partition == moved.partition])
            await send(broker, topic, numbered(10, start=10, partition=moved.partition))
            await eventually(lambda: len(passing_by.taken) == 10, "the other member went on")

            async def wait() -> None:
                slow.set()
                await back.wait()

            staying.on_assigned = wait
        async with asyncio.timeout(PATIENT_SECONDS):
            await slow.wait()
        calls = staying.done_calls
        await eventually(lambda: staying.done_calls >= calls + 4, "offsets were looked at twice")
        assert await committed(broker, group_id, moved) == 20
        back.set()
        await eventually(lambda: staying.ours == partitions, "the partition was back")
        assert running.shutdown.exit_code == 0
    assert len(staying.taken) == 20


async def test_a_fault_is_forgotten_with_the_assignment_that_met_it(broker: str, group_id: str) -> None:
    topic = fresh_name("topic")
    await make_topics(broker, [topic], partitions=2)
    await send(broker, topic, [*numbered(1, partition=0), *numbered(1, partition=1)])
    work, other = Ledger(), Ledger()
    assignments = 0
    told: list[tuple[int, str | None]] = []

    async def count() -> None:
        nonlocal assignments
        assignments += 1

    async with member(broker, group_id, [topic], work) as running:

        def fail(records: Sequence[RawRecord]) -> None:
            told.append((assignments, running.consumer.not_ready()))
            raise PassingFault("The store is away.")

        def wait(records: Sequence[RawRecord]) -> None:
            raise PassingFault("The other leaves the records for later: whoever gets them meets his fault again.")

        work.on_assigned, work.trouble, other.trouble = count, fail, wait
        await eventually(lambda: (assignments, "The store is away.") in told, "the fault showed")
        before = assignments
        async with member(broker, group_id, [topic], other):
            await eventually(lambda: told[-1][0] > before, "the fault came again after the rebalance")
        assert next(reason for number, reason in told if number > before) is None
        assert running.shutdown.exit_code == 0


class BrokenName(str):
    """A header's name that goes out as bytes which are no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff" * len(self)


@pytest.mark.skipif(on_apache_kafka(), reason="Apache Kafka takes no record that cannot be read.")
async def test_a_record_that_the_client_cannot_read_stops_the_process(broker: str, group_id: str, topic: str) -> None:
    work = Ledger()
    async with member(broker, group_id, [topic], work) as running:
        await send(broker, topic, numbered(3))
        await until_committed(broker, group_id, TopicPartition(topic, 0), 3)
        async with producer(broker) as client:
            batch = client.create_batch()
            # The builder in C takes no broken text; the one in Python asks the text for its bytes.
            batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 4096)
            batch.append(timestamp=None, key=None, value=b"unreadable", headers=[(BrokenName("name"), b"")])
            await (await client.send_batch(batch, topic, partition=0))
        await eventually(lambda: running.shutdown.requested, "the process was asked to stop")
        assert running.shutdown.exit_code == 1
    assert await committed(broker, group_id, TopicPartition(topic, 0)) == 3
