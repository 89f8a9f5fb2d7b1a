"""A process may start before Kafka does, and stop after it."""

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from services.runtime.shutdown import Shutdown

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
STOP_SECONDS = 8.0


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


async def disconnect(producer: AIOKafkaProducer) -> None:
    """Send what is on its way, for 8 s at most, and close the connections: without Kafka aiokafka would try for 40."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        logger.warning("The producer did not stop in order: %r", error)
        await producer.client.close()
