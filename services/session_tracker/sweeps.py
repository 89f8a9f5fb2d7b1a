"""Ends sessions that saw no activity for too long: one sweep, many chunks, each its own transaction."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.contracts import BadRecord, admit, decode
from services.contracts.events import TimeoutSweep
from services.contracts.topics import SWEEPS_GROUP
from services.runtime.dead_letters import DeadLetter, DeadLetters, meant_for_another_group
from services.runtime.faults import PassingFault
from services.runtime.offsets import DoneOffsets
from services.runtime.records import RawRecord
from services.runtime.shutdown import Shutdown
from services.session_tracker.endings import CHUNK, Chunk, Position, in_chunks
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.sweep_store import SweepStore
from services.session_tracker.timeouts import Timeouts
from services.session_tracker.untold import UntoldChunks

logger = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.2
UNPACED_SECONDS = 1.0
"""A sweep that is done so soon disturbs nobody, and whoever asked for it is waiting."""
REST = 3.0
"""How long a longer sweep rests after a chunk, as a multiple of the chunk's own time: the fold needs the machine."""


class FoldBehind(PassingFault):
    """The fold has not passed the sweep's own time yet: sweeping now could end answered sessions."""


class Sweeps:
    """The work of the group `session-sweeps` (services.runtime.consumer.PartitionWork)."""

    def __init__(
        self,
        store: SweepStore,
        untold: UntoldChunks,
        dead_letters: DeadLetters,
        metrics: TrackerMetrics,
        shutdown: Shutdown,
        *,
        timeout_hours: float,
    ) -> None:
        self._store = store
        self._untold = untold
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._shutdown = shutdown
        self._timeout_hours = timeout_hours
        self._done = DoneOffsets()

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: frozenset[TopicPartition]) -> None:
        """Begin anew: offsets count from what the group has committed."""
        self._done.clear()

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Nothing runs between batches."""

    def done(self) -> Mapping[TopicPartition, int]:
        """Return the offset behind the last sweep that is finished."""
        return self._done.next()

    async def take(self, records: Sequence[RawRecord]) -> None:
        """Run each sweep to its end. A sweep that is taken again goes on where it stopped."""
        for record in records:
            if not meant_for_another_group(record, SWEEPS_GROUP):
                await self._take(record)
            self._done.add([record])

    async def _take(self, record: RawRecord) -> None:
        try:
            sweep = decode(record.topic, record.headers, record.value)
            admit(sweep, datetime.now(UTC))
        except BadRecord as cause:
            await self._dead_letters.publish([DeadLetter(record, cause)])
            return
        if not isinstance(sweep, TimeoutSweep):
            raise TypeError(f"{type(sweep).__name__} was decoded from the topic of sweeps.")
        await self.run(sweep)

    async def run(self, sweep: TimeoutSweep) -> None:
        """Time out every stale session: by the sweep's own `max_age_hours`, else by its persona's or the setting's.

        Raises PassingFault where PostgreSQL, Kafka or the fold is behind; the sweep then goes on when run again.
        """
        timeouts = await self._timeouts(sweep)
        if not await self._store.begin(sweep, timeouts):
            return
        await self._fold_has_passed(sweep.as_of)
        if sweep.dry_run:
            await self._store.finish(sweep, would_time_out=await self._store.count_stale(sweep, timeouts))
        else:
            async for timed_out in self._chunks(sweep, timeouts):
                self._metrics.swept.inc(timed_out)
            await self._store.finish(sweep)
        self._metrics.sweeps.labels(str(sweep.dry_run).lower()).inc()
        logger.info("Sweep %s is finished.", sweep.sweep_id)

    async def _timeouts(self, sweep: TimeoutSweep) -> Timeouts:
        if sweep.max_age_hours is not None:
            return Timeouts(sweep.max_age_hours)
        return Timeouts(self._timeout_hours, await self._store.persona_timeouts())

    async def _chunks(self, sweep: TimeoutSweep, timeouts: Timeouts) -> AsyncIterator[int]:
        """Yield how many sessions each chunk timed out."""
        began = resumed = time.monotonic()
        end, skip = partial(self._time_out, sweep, timeouts), partial(self._skip, sweep, timeouts)
        async for chunk in in_chunks(end, skip, CHUNK):
            self._metrics.count(chunk.transitions)
            await self._untold.tell(chunk)
            yield len(chunk.transitions)
            now = time.monotonic()
            if now > began + UNPACED_SECONDS:
                await asyncio.sleep((now - resumed) * REST)
            resumed = time.monotonic()

    async def _time_out(self, sweep: TimeoutSweep, timeouts: Timeouts, position: Position, size: int) -> Chunk:
        if self._shutdown.requested:
            raise FoldBehind("The process stops before the sweep is finished.")
        return await self._store.time_out(sweep, timeouts, position, size)

    async def _skip(self, sweep: TimeoutSweep, timeouts: Timeouts, position: Position) -> Position | None:
        logger.exception("PostgreSQL does not let sweep %s end a session, which is skipped.", sweep.sweep_id)
        self._metrics.failed_chunks.inc()
        return await self._store.skip(sweep, timeouts, position)

    async def _fold_has_passed(self, as_of: datetime) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + WAIT_SECONDS
        while not await self._store.folded_past(as_of):
            if self._shutdown.requested or loop.time() > give_up:
                raise FoldBehind(f"A sweep waits until everything before {as_of:%Y-%m-%d %H:%M:%S} is folded.")
            await asyncio.sleep(POLL_SECONDS)
