"""From which offset on a partition's records were written since a moment."""

from collections.abc import Sequence
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition


async def written_since(
    reader: AIOKafkaConsumer, places: Sequence[TopicPartition], moment: datetime
) -> dict[TopicPartition, int]:
    """Return of each partition the offset of the first record written at `moment` or later, its end if none was.

    Raises KafkaError.
    """
    found = await reader.offsets_for_times(dict.fromkeys(places, int(moment.timestamp() * 1000)))
    ends: dict[TopicPartition, int] = await reader.end_offsets(places)
    # Where there is none, Apache Kafka tells nothing, and the embedded broker offset 0 without a time.
    return {
        place: ends[place] if (first := found.get(place)) is None or first.timestamp < 0 else first.offset
        for place in places
    }
