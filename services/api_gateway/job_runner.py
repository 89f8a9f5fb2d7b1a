"""Works on bulk jobs beside the requests, each at its own pace, from where it or another gateway stopped."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.api_gateway.bulk import Item, ItemOutcome, JobState, event_of, plan
from services.api_gateway.database import DatabaseAway, StatementStopped
from services.api_gateway.filters.errors import InvalidFilter
from services.api_gateway.filters.grammar import parse
from services.api_gateway.filters.meaning import understood
from services.api_gateway.jobs import Jobs
from services.api_gateway.problems import Problem
from services.api_gateway.publishing import Publisher
from services.api_gateway.reads import Json, SessionReads
from services.api_gateway.selection import Selection
from services.contracts import NotAdmitted, new_id
from services.database.partitions import id_at
from services.runtime.kafka import NotAcknowledged

logger = logging.getLogger(__name__)

TURN_SECONDS = 1.0
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class JobRunner:
    """One gateway's work on jobs."""

    jobs: Jobs
    reads: SessionReads
    publisher: Publisher
    worker: UUID = field(default_factory=new_id)

    async def run(self) -> None:
        """Take a turn at every job each second, until cancelled."""
        while True:
            try:
                turns = [self._turn_or_end(job) for job in await self.jobs.claim(self.worker)]
            except DatabaseAway as error:
                logger.warning("Bulk jobs wait: %s", error)
                turns = []
            await asyncio.gather(*turns)
            await asyncio.sleep(TURN_SECONDS)

    async def _turn_or_end(self, job: Any) -> None:
        try:
            try:
                await self._turn(job)
            except (StatementStopped, InvalidFilter) as error:
                # The same would come of the next turn.
                await self.jobs.end(job.jobId, JobState.FAILED, str(error))
        except DatabaseAway as error:
            logger.warning("The bulk job %s waits: %s", job.jobId, error)

    async def _turn(self, job: Any) -> None:
        """Do what is due first: it was begun before the process that did so ended, or Kafka did not acknowledge it."""
        if left := await self.jobs.due(job.jobId, job.perSecond):
            await self._publish(job, left, await self.reads.sent_of([item.session_id for item in left]))
            return
        ids, sessions = await self._next(job)
        if not ids:
            await self.jobs.end(job.jobId, JobState.FINISHED)
            return
        now, there = datetime.now(UTC), {session["sessionId"]: session for session in sessions}
        items = [plan(job.action, each, there.get(each), now, dry_run=job.dryRun) for each in ids]
        if await self.jobs.advance(job.jobId, self.worker, items):
            await self._publish(job, [item for item in items if item.outcome is ItemOutcome.DUE], sessions)

    async def _next(self, job: Any) -> tuple[Sequence[UUID], list[Json]]:
        """Return the ids of the sessions that come next, and those of the sessions that there are."""
        after = job.position or _FIRST
        if job.ids is not None:
            ids = [each for each in job.ids if each > after][: job.perSecond]
            return ids, await self.reads.sent_of(ids) if ids else []
        # Of what began before the job: what it sends again must not be found by it.
        selection = Selection(None, understood(parse(job.filter)))
        sessions = await self.reads.sent_after(selection, after, id_at(job.createdAt), job.perSecond)
        return [session["sessionId"] for session in sessions], sessions

    async def _publish(self, job: Any, items: Sequence[Item], sessions: Sequence[Json]) -> None:
        there = {session["sessionId"]: session for session in sessions}
        told = await asyncio.gather(*(self._publish_one(job, item, there.get(item.session_id)) for item in items))
        if settled := {session_id: code for session_id, is_settled, code in told if is_settled}:
            await self.jobs.settle(job.jobId, settled)

    async def _publish_one(self, job: Any, item: Item, session: Json | None) -> tuple[UUID, bool, str | None]:
        """Return the session, whether its item is settled, and why it was skipped, if it was."""
        if session is None:
            return item.session_id, True, "no-such-session"
        try:
            event = event_of(job, item, session)
            await self.publisher.publish(event)
        except Problem as problem:
            return item.session_id, True, problem.code
        except NotAdmitted as error:
            return item.session_id, True, error.reason
        except NotAcknowledged:
            return item.session_id, False, None
        return item.session_id, True, None
