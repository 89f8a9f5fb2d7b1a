"""A consumer that hears nothing while Kafka answers others must not go on unnoticed."""

import asyncio

import pytest

from services.local.processes import free_port
from services.runtime.settings import KafkaSettings
from services.runtime.shutdown import Shutdown
from services.runtime.stall import STALLED_SECONDS, ConsumerStalled, watch_for_stall
from tests.engine import on_apache_kafka
from tests.patience import PATIENT_SECONDS


def settings_for(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_idempotence=on_apache_kafka())


async def test_a_stalled_consumer_stops_the_process(broker: str, caplog: pytest.LogCaptureFixture) -> None:
    shutdown = Shutdown()
    async with asyncio.timeout(PATIENT_SECONDS):
        await watch_for_stall(lambda: STALLED_SECONDS + 1, settings_for(broker), shutdown, check_seconds=0.01)
    assert shutdown.exit_code == 1
    assert ConsumerStalled.__name__ in caplog.text


@pytest.mark.parametrize(
    ("age", "reachable"), [(None, True), (STALLED_SECONDS - 1, True), (STALLED_SECONDS + 1, False)]
)
async def test_rest_and_an_absent_kafka_do_not(broker: str, age: float | None, reachable: bool) -> None:
    shutdown, asked = Shutdown(), asyncio.Event()
    looks = iter(range(3))

    def last_poll_age() -> float | None:
        if next(looks, None) is None:
            asked.set()
        return age

    bootstrap = broker if reachable else f"127.0.0.1:{free_port()}"
    watching = asyncio.create_task(
        watch_for_stall(last_poll_age, settings_for(bootstrap), shutdown, check_seconds=0.01)
    )
    async with asyncio.timeout(PATIENT_SECONDS):
        await asked.wait()
    watching.cancel()
    assert not shutdown.requested
