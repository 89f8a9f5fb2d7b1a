"""Topics as `chat-sessions migrate` makes them, on a broker of the test's own."""

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from services.contracts.topics import DEAD_LETTER_TOPICS, MESSAGES, TOPICS
from services.local.processes import free_port
from services.runtime.settings import KafkaSettings
from services.runtime.topics import TopicsNotCreated, create_topics
from tests.engine import admin_of
from tests.integration.kafka_log import settings_for


async def partitions(bootstrap: str) -> dict[str, int]:
    async with admin_of(bootstrap) as client:
        entries = await client.describe_topics()
    return {e["topic"]: len(e["partitions"]) for e in entries if not e["topic"].startswith("__")}


async def test_every_topic_of_the_contract_is_created_once(empty_broker: str) -> None:
    settings = settings_for(empty_broker)
    created = await create_topics(settings)
    expected = {topic.name: topic.partitions for topic in (*TOPICS, *DEAD_LETTER_TOPICS)}
    assert sorted(created) == sorted(expected)
    assert await partitions(empty_broker) == expected
    assert await create_topics(settings) == []
    assert await partitions(empty_broker) == expected


async def test_a_topic_is_created_with_retention_and_size(empty_broker: str) -> None:
    await create_topics(settings_for(empty_broker))
    async with admin_of(empty_broker) as client:
        (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, MESSAGES.name)])
    found = {name: value for *_, entries in answer.resources for name, value, *_ in entries}  # type: ignore[attr-defined]
    assert found["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert found["max.message.bytes"] == str(MESSAGES.max_record_bytes)
    assert found["cleanup.policy"] == "delete"


async def test_what_is_missing_is_added(empty_broker: str) -> None:
    async with admin_of(empty_broker) as client:
        await client.create_topics([NewTopic(MESSAGES.name, MESSAGES.partitions, 1)])
    created = await create_topics(settings_for(empty_broker))
    assert MESSAGES.name not in created
    assert len(created) == len(TOPICS) + len(DEAD_LETTER_TOPICS) - 1


async def test_a_topic_with_other_partitions_is_refused_by_name(empty_broker: str) -> None:
    async with admin_of(empty_broker) as client:
        answer = await client.create_topics([NewTopic(MESSAGES.name, 3, 1)])
    assert [code for _, code, *_ in answer.topic_errors] == [0]  # type: ignore[attr-defined]
    with pytest.raises(TopicsNotCreated, match=r"chat\.messages\.v1 has 3 partitions, not 8") as refused:
        await create_topics(settings_for(empty_broker))
    assert "delete it or move its records" in str(refused.value)


async def test_a_broker_out_of_reach_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(TopicsNotCreated, match=address):
        await create_topics(KafkaSettings(kafka_bootstrap_servers=address))
