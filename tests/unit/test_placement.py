"""A conversation's partition: where the client would put it by itself."""

from aiokafka.partitioner import DefaultPartitioner

from services.contracts.topics import PARTITIONS
from services.runtime.placement import partition_of


def test_the_client_places_keys_alike() -> None:
    every = list(range(PARTITIONS))
    keys = [f"conversation-{n}" for n in range(200)] + ["", "ü", "a" * 128]
    assert [partition_of(key) for key in keys] == [DefaultPartitioner()(key.encode(), every, every) for key in keys]
