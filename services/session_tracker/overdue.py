"""Ends sessions whose reply by callback did not come: every few seconds, once the fold has passed their deadlines."""

import asyncio
import logging
from datetime import datetime
from functools import partial

from services.runtime.faults import PassingFault
from services.session_tracker.endings import CHUNK, Position, in_chunks
from services.session_tracker.metrics import TrackerMetrics
from services.session_tracker.overdue_store import OverdueStore
from services.session_tracker.untold import UntoldChunks

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


class OverdueCallbacks:
    """Fails them as `callback-timeout`. Every tracker looks; a session is ended once."""

    def __init__(self, store: OverdueStore, untold: UntoldChunks, metrics: TrackerMetrics) -> None:
        self._store = store
        self._untold = untold
        self._metrics = metrics
        self._fault: str | None = None

    async def run(self) -> None:
        """Look every two seconds, for ever; a passing fault is shown in readiness and tried again."""
        while True:
            try:
                await self.end_overdue()
            except PassingFault as fault:
                if self._fault is None:
                    logger.warning("Overdue callbacks are not ended yet: %s", fault)
                self._fault = str(fault)
            else:
                self._fault = None
            await asyncio.sleep(LOOK_SECONDS)

    async def end_overdue(self) -> None:
        """End every session that is overdue as far as everything is folded. Raises PassingFault.

        First what a crash left untold is told, of sweeps too.
        """
        await self._untold.tell_left_over()
        until = await self._store.folded_up_to()
        if until is None:
            return
        async for chunk in in_chunks(partial(self._store.end, until), partial(self._skip, until), CHUNK):
            self._metrics.count(chunk.transitions)
            await self._untold.tell(chunk)

    def not_ready(self) -> str | None:
        """Return why overdue callbacks are not ended at the moment, None if they are."""
        return self._fault

    async def _skip(self, until: datetime, position: Position) -> Position | None:
        logger.exception("PostgreSQL does not let an overdue session end, which is skipped.")
        return await self._store.skip(until, position)
