"""aiokafka can stop fetching without a word: then the process ends loudly, and is started again by its supervisor."""

import asyncio
from collections.abc import Callable

from aiokafka.errors import KafkaError

from services.runtime.kafka import build_admin
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown

STALLED_SECONDS = 90.0
CHECK_SECONDS = 10.0


class ConsumerStalled(Exception):
    """Kafka answers others, but this process's consumer has heard nothing for too long."""


async def watch_for_stall(
    last_poll_age: Callable[[], float | None],
    settings: KafkaSettings,
    shutdown: Shutdown,
    *,
    check_seconds: float = CHECK_SECONDS,
) -> None:
    """Fail the process when its consumer's last poll is 90 s old although a new connection to Kafka works.

    `last_poll_age` tells seconds, None where nothing is to be polled. While Kafka is away nothing happens: that fault
    passes.
    """
    while True:
        await asyncio.sleep(check_seconds)
        age = last_poll_age()
        if age is not None and age > STALLED_SECONDS and await _answers(settings):
            shutdown.fail(ConsumerStalled(f"Kafka answers, but this consumer has not heard from it for {age:.0f} s."))
            return


async def _answers(settings: KafkaSettings) -> bool:
    admin = build_admin(settings)
    try:
        await admin.start()
    except KafkaError:
        return False
    finally:
        await admin.close()
    return True
