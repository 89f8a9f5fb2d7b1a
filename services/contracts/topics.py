"""The Kafka topics and consumer groups: names, partitions and retention are part of the contract."""

from dataclasses import dataclass
from datetime import timedelta

PARTITIONS = 8
"""Of every topic keyed by conversation. Fixed for good: changing it would break order within conversations."""

MAX_RECORD_BYTES = 2 * 1024 * 1024
"""Largest record that a topic takes: room for the largest reply, escaped as JSON."""

MAX_DEAD_LETTER_BYTES = MAX_RECORD_BYTES + 64 * 1024
"""Of a dead-letter topic: room for the largest record and the headers that say why it is there."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as `chat-sessions migrate` creates it."""

    name: str
    partitions: int
    retention: timedelta
    max_record_bytes: int = MAX_RECORD_BYTES


MESSAGES = Topic("chat.messages.v1", PARTITIONS, timedelta(days=7))
RESULTS = Topic("chat.results.v1", PARTITIONS, timedelta(days=7))
CONTROL = Topic("chat.control.v1", PARTITIONS, timedelta(days=7))
SWEEPS = Topic("chat.sweeps.v1", 1, timedelta(days=1))
SESSIONS = Topic("chat.sessions.v1", PARTITIONS, timedelta(days=1))
DELTAS = Topic("chat.deltas.v1", PARTITIONS, timedelta(hours=1))

TOPICS = (MESSAGES, RESULTS, CONTROL, SWEEPS, SESSIONS, DELTAS)

DISPATCHER_GROUP = "webhook-dispatcher"
TRACKER_GROUP = "session-tracker"
SWEEPS_GROUP = "session-sweeps"

GROUP_TOPICS = {
    DISPATCHER_GROUP: (MESSAGES,),
    TRACKER_GROUP: (MESSAGES, RESULTS, CONTROL),
    SWEEPS_GROUP: (SWEEPS,),
}
"""The topics whose records each consumer group is answerable for: it commits them or dead-letters them."""


def dead_letter_topic(topic: str, group: str) -> Topic:
    """Return the topic that takes what `group` could not use of `topic`, kept for 14 days."""
    return Topic(f"{topic}.{group}.dlq", 1, timedelta(days=14), MAX_DEAD_LETTER_BYTES)


DEAD_LETTER_TOPICS = tuple(
    dead_letter_topic(topic.name, group) for group, topics in GROUP_TOPICS.items() for topic in topics
)
