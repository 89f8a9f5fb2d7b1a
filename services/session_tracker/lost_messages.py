"""Finds messages that Kafka has lost before a dispatcher came to them, now and then, and publishes them again."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.runtime.faults import PassingFault
from services.runtime.logs import about
from services.session_tracker.backlog import Backlog, BacklogTooLong, Offsets
from services.session_tracker.chores import only_here
from services.session_tracker.faults import postgres_faults
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.recovery import open_messages, publish_again, untouched_since
from services.session_tracker.store import SessionStore

logger = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
"""How long a fold that is current may take to pass the moment at which a look began."""
POLL_SECONDS = 0.2
_LOCK = 0x6C6F_7374  # "lost": one tracker at a time looks


class Look(StrEnum):
    """How a look for lost messages ended."""

    DONE = "done"
    ELSEWHERE = "elsewhere"
    """Another process is at it."""
    FOLD_BEHIND = "fold-behind"
    """Results may be in Kafka that PostgreSQL does not know yet."""
    BACKLOG = "backlog"
    """So many messages wait that none of them can be said to be lost."""
    FAILED = "failed"
    """Kafka or PostgreSQL is away."""


class LostMessages:
    """Looks every so often for sessions that are ACTIVE, untouched for as long, and of which nothing waits in Kafka."""

    def __init__(
        self,
        engine: AsyncEngine,
        sessions: SessionStore,
        backlog: Backlog,
        producer: AIOKafkaProducer,
        metrics: TrackerMetrics,
        *,
        every: timedelta,
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._backlog = backlog
        self._producer = producer
        self._metrics = metrics
        self._every = every

    async def run(self) -> None:
        """Look again and again, for ever; what stands in the way is told and left to the next time."""
        while True:
            await asyncio.sleep(self._every.total_seconds())
            try:
                look = await self.look()
            except BacklogTooLong as fault:
                look = Look.BACKLOG
                logger.info("Lost messages are not looked for: %s", fault)
            except (PassingFault, KafkaError) as fault:
                look = Look.FAILED
                logger.warning("Lost messages cannot be looked for: %s", fault)
            self._metrics.looks.labels(look).inc()

    async def look(self) -> Look:
        """Publish again what is lost, each message once, however many processes look. Raises PassingFault, KafkaError.

        A message is lost where all is folded that was known to Kafka when dispatchers had finished what they have, its
        session is still untouched, and it is not among what they have not finished.
        """
        with postgres_faults():
            async with only_here(self._engine, _LOCK) as connection:
                if connection is None:
                    return Look.ELSEWHERE
                # In this order: of what is finished before these offsets, PostgreSQL then knows the results.
                finished = await self._backlog.offsets()
                now = datetime.now(UTC)
                if not await self._fold_passes(now):
                    return Look.FOLD_BEHIND
                await self._publish_lost(finished, now - self._every)
                return Look.DONE

    async def _publish_lost(self, finished: Offsets, before: datetime) -> None:
        waiting: set[UUID] | None = None
        async for messages in open_messages(self._engine, untouched_since(before)):
            if waiting is None:
                waiting = await self._backlog.sessions(finished)
            lost = [message for message in messages if message.session_id not in waiting]
            if lost:
                await publish_again(self._producer, lost)
                self._metrics.republished.inc(len(lost))
                logger.warning(
                    "Published %d messages again that Kafka had lost, first this one's.",
                    len(lost),
                    extra=about(lost[0].session_id),
                )

    async def _fold_passes(self, moment: datetime) -> bool:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + WAIT_SECONDS
        while loop.time() < give_up:
            folded = await self._sessions.folded_up_to()
            if folded is not None and folded >= moment:
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False
