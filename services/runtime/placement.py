"""Where a key's records are: on one partition, the same for every client."""

from functools import lru_cache

from aiokafka.partitioner import murmur2

from services.contracts.topics import PARTITIONS


@lru_cache(maxsize=65_536)
def partition_of(key: str) -> int:
    """Return the partition of a conversation's records, as the Java client and aiokafka place them.

    Remembered, because murmur2 in Python takes longer than everything else that is done with a record.
    """
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS
