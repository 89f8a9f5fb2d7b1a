"""Batches through FastStream just as aiokafka read them: decoding is the work's own."""

from collections.abc import Sequence

from faststream.kafka import KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER, KafkaAckableMessage


async def undecoded(records: Sequence[object]) -> KafkaAckableMessage:
    """Parse nothing. FastStream's own parser decodes every header, and one null value would lose the whole batch."""
    return KafkaAckableMessage(body=b"", headers={}, raw_message=records, consumer=FAKE_CONSUMER)


async def raw_records(message: KafkaMessage) -> object:
    """Return the batch's records."""
    return message.raw_message
