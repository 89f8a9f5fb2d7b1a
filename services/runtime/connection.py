"""A process may start before Kafka does."""

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from services.runtime.shutdown import Shutdown

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def connect(producer: AIOKafkaProducer, shutdown: Shutdown) -> bool:
    """Start the producer, as often as it takes; return False where the process is to stop before Kafka is there."""
    told = False
    while not shutdown.requested:
        try:
            await producer.start()
        except KafkaConnectionError as fault:
            if not told:
                logger.warning("Kafka is not to be had yet: %s. Trying again until it is.", fault)
            told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shutdown.wait(), RETRY_SECONDS)
        else:
            return True
    return False
