"""Creates the topics that the contract names. Brokers run with auto-creation off."""

import asyncio
import logging

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from services.contracts.topics import DEAD_LETTER_TOPICS, TOPICS, Topic
from services.runtime.kafka import build_admin
from services.runtime.reachability import why_unreachable
from services.runtime.settings import KafkaSettings

logger = logging.getLogger(__name__)

_KNOWN_SECONDS = 30


class TopicsNotCreated(Exception):
    """The topics cannot be made as the contract asks; the text says which and why."""


async def create_topics(settings: KafkaSettings) -> list[str]:
    """Create every missing topic with its partitions, replication and retention; return the names of new ones.

    Raises TopicsNotCreated where Kafka is out of reach or refuses, or where a topic exists with another number of
    partitions: order within conversations rests on it.
    """
    admin = build_admin(settings)
    topics = (*TOPICS, *DEAD_LETTER_TOPICS)
    try:
        await admin.start()
        try:
            replication = settings.kafka_replication_factor or await _default_replication(admin)
            created = await _create(admin, topics, replication)
            await _verify(admin, topics)
        finally:
            await admin.close()
    except KafkaConnectionError as error:
        raise TopicsNotCreated(await why_unreachable(settings)) from error
    except KafkaError as error:
        raise TopicsNotCreated(
            f"Kafka at {settings.kafka_bootstrap_servers} did not create the topics: {error!r}"
        ) from error
    return created


async def _default_replication(admin: AIOKafkaAdminClient) -> int:
    """Return three, or as many as there are brokers: one of three may then be lost, or restarted, without a stop."""
    cluster = await admin.describe_cluster()
    return min(3, len(cluster["brokers"]))


async def _create(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...], replication: int) -> list[str]:
    answer = await admin.create_topics([_new_topic(topic, replication) for topic in topics])
    created = []
    for name, code, *_ in answer.topic_errors:  # type: ignore[attr-defined]
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise TopicsNotCreated(f"Kafka did not create {name}: {error.__name__}.")
    return created


async def _verify(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...]) -> None:
    found = await _partitions_once_known(admin, [topic.name for topic in topics])
    for topic in topics:
        if found[topic.name] != topic.partitions:
            raise TopicsNotCreated(
                f"{topic.name} has {found[topic.name]} partitions, not {topic.partitions}; "
                "delete it or move its records to a topic made by `chat-sessions migrate`."
            )


async def _partitions_once_known(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, int]:
    """Return how many partitions each topic has; of a cluster, the broker that is asked may hear of new ones late."""
    try:
        async with asyncio.timeout(_KNOWN_SECONDS):
            while True:
                entries = await admin.describe_topics(names)
                if all(entry["partitions"] for entry in entries):
                    return {entry["topic"]: len(entry["partitions"]) for entry in entries}
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TopicsNotCreated(
            f"Kafka took the topics, but a broker does not know them after {_KNOWN_SECONDS} s: see to its cluster, "
            "and run `chat-sessions migrate` again."
        ) from None


def _new_topic(topic: Topic, replication: int) -> NewTopic:
    retention_ms = str(int(topic.retention.total_seconds() * 1000))
    return NewTopic(
        topic.name,
        num_partitions=topic.partitions,
        replication_factor=replication,
        topic_configs={
            "retention.ms": retention_ms,
            # Only whole segments are deleted: a record lives at most twice its retention.
            "segment.ms": retention_ms,
            "max.message.bytes": str(topic.max_record_bytes),
            "cleanup.policy": "delete",
        },
    )
