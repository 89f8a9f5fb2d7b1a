"""The AsyncAPI document: what is committed is what the events and topics say, and it is sound AsyncAPI 3.0."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from services.contracts import encode
from services.contracts.asyncapi import document, text
from services.contracts.events import EVENT_CLASSES
from services.contracts.topics import TOPICS
from tests.unit.events import SOURCE, TRACEPARENT, one_of_each

COMMITTED = Path(__file__).parents[2] / "docs" / "asyncapi.json"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolved(reference: str) -> Any:
    found: Any = document()
    assert reference.startswith("#/")
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_the_committed_document_is_the_generated_one() -> None:
    assert COMMITTED.read_text() == text(), "Run `python -m services.contracts.asyncapi > docs/asyncapi.json`."


def test_every_reference_leads_somewhere() -> None:
    for reference in references(document()):
        assert isinstance(resolved(reference), dict), reference


def test_it_has_what_asyncapi_asks_for() -> None:
    generated = document()
    assert generated["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= generated["info"].keys()
    assert set(generated) <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    for operation in generated["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = resolved(operation["channel"]["$ref"])
        # The specification: an operation's messages are references into its own channel.
        for message in operation["messages"]:
            prefix, _, name = message["$ref"].rpartition("/")
            assert prefix == f"{operation['channel']['$ref']}/messages"
            assert name in channel["messages"]
    ApplicationSchema.model_validate(generated)


def test_every_topic_is_a_channel_and_every_event_is_on_its_own() -> None:
    channels = {channel["address"]: channel for channel in document()["channels"].values()}
    assert set(channels) == {topic.name for topic in TOPICS}
    for topic in TOPICS:
        kafka = channels[topic.name]["bindings"]["kafka"]
        assert (kafka["topic"], kafka["partitions"]) == (topic.name, topic.partitions)
        retention = kafka["topicConfiguration"]["retention.ms"]
        assert retention == topic.retention.total_seconds() * 1000
        names = {c.__name__ for c in EVENT_CLASSES if c.topic is topic}
        assert set(channels[topic.name]["messages"]) == names


@pytest.mark.parametrize("event", one_of_each(), ids=lambda event: type(event).__name__)
def test_a_record_has_the_headers_and_fields_of_its_message(event: Any) -> None:
    message = document()["components"]["messages"][type(event).__name__]
    payload = resolved(message["payload"]["$ref"])
    record = encode(event, source=SOURCE, traceparent=TRACEPARENT)
    told = message["headers"]["properties"]
    assert [name for name, _ in record.headers] == list(told)
    for name, value in record.headers:
        assert told[name].get("const", value.decode()) == value.decode()
    fields = json.loads(record.value)
    assert set(payload["required"]) <= set(fields) <= set(payload["properties"])
    assert message["name"] == event.ce_type
