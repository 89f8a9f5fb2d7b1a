"""Kafka's records as a client hands them over: bytes, and nothing of them decoded."""

from datetime import UTC, datetime

from aiokafka.structs import ConsumerRecord

RawRecord = ConsumerRecord[bytes | None, bytes | None]


def written_at(record: RawRecord) -> datetime:
    """Return the record's own time, as its publisher or its broker gave it, in UTC."""
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)
