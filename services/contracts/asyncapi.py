"""The AsyncAPI 3 document of all that travels over Kafka, generated from the events and the topics.

    python -m services.contracts.asyncapi > docs/asyncapi.json

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
import sys
from typing import Any

from pydantic.json_schema import models_json_schema

from services.contracts.events import EVENT_CLASSES, ErasureRequested, Event, TimeoutSweep
from services.contracts.topics import GROUP_TOPICS, TOPICS, Topic, dead_letter_topic

VERSION = "1.1.0"
"""Of the document: the minor part grows with each added field, the major one never within `v1`."""

_REF = "#/components/schemas/{model}"
_JSON = "application/json"

Document = dict[str, Any]


def document() -> Document:
    """Return the whole document as plain JSON values; the same input gives the same document."""
    return {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": _JSON,
        "channels": {_channel_id(topic): _channel(topic) for topic in TOPICS},
        "operations": {
            f"{action}{event_class.__name__}": _operation(action, event_class)
            for event_class in EVENT_CLASSES
            for action in ("send", "receive")
        },
        "components": {
            "messages": {event_class.__name__: _message(event_class) for event_class in EVENT_CLASSES},
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """Return the document as it is committed: indented JSON that ends with a newline."""
    return json.dumps(document(), indent=2) + "\n"


def _info() -> Document:
    return {
        "title": "Chat session events",
        "version": VERSION,
        "description": (
            "CloudEvents 1.0 in Kafka's binary mode: the headers carry the event's attributes, the value its JSON "
            "body. `ce_type` alone names type and version. Records are keyed by conversation and partitioned by "
            "murmur2 of the key, as the Java client does. Readers ignore fields that they do not know."
        ),
    }


def _channel_id(topic: Topic) -> str:
    return topic.name.split(".")[1]


def _channel(topic: Topic) -> Document:
    classes = [event_class for event_class in EVENT_CLASSES if event_class.topic is topic]
    return {
        "address": topic.name,
        "description": _channel_description(topic),
        "messages": {c.__name__: {"$ref": f"#/components/messages/{c.__name__}"} for c in classes},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": int(topic.retention.total_seconds() * 1000),
                    "max.message.bytes": topic.max_record_bytes,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _channel_description(topic: Topic) -> str:
    dead_letters = [dead_letter_topic(topic.name, group).name for group, read in GROUP_TOPICS.items() if topic in read]
    if not dead_letters:
        return "Read without a consumer group; nothing of it is dead-lettered."
    return f"What a consumer group cannot use of it goes to {' or '.join(dead_letters)}."


def _operation(action: str, event_class: type[Event]) -> Document:
    channel = f"#/channels/{_channel_id(event_class.topic)}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{event_class.__name__}"}],
    }


def _message(event_class: type[Event]) -> Document:
    return {
        "name": event_class.ce_type,
        "title": event_class.__name__,
        "summary": (event_class.__doc__ or "").strip(),
        "contentType": _JSON,
        "headers": _headers(event_class),
        "payload": {"$ref": _REF.format(model=event_class.__name__)},
        "bindings": {"kafka": {"key": {"type": "string", "description": _key(event_class)}, "bindingVersion": "0.5.0"}},
    }


def _headers(event_class: type[Event]) -> Document:
    return {
        "type": "object",
        "required": ["ce_type"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": {"type": "string", "format": "uuid", "description": "eventId"},
            "ce_type": {"const": event_class.ce_type},
            "ce_source": {"type": "string", "format": "uri-reference", "description": "The publisher"},
            "ce_time": {"type": "string", "format": "date-time", "description": "occurredAt"},
            "ce_subject": {"type": "string", "description": _subject(event_class)},
            "content-type": {"const": _JSON},
            "traceparent": {"type": "string", "description": "W3C trace context"},
        },
    }


def _key(event_class: type[Event]) -> str:
    return "sweepId" if event_class is TimeoutSweep else "conversationId"


def _subject(event_class: type[Event]) -> str:
    return _key(event_class) if event_class in {TimeoutSweep, ErasureRequested} else "sessionId"


def _schemas() -> Document:
    # What a reader finds, not what a publisher must give: optional fields stay optional in "validation" mode.
    _, definitions = models_json_schema(
        [(event_class, "validation") for event_class in EVENT_CLASSES], by_alias=True, ref_template=_REF
    )
    schemas: Document = definitions["$defs"]
    return schemas


if __name__ == "__main__":
    sys.stdout.write(text())
