"""Stops the executions of cancelled sessions in n8n, as far as they are known: nobody waits for it or fails by it."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.contracts import CancelRequested, SessionStatus
from services.database.tables import chat_sessions, session_events
from services.runtime.logs import about
from services.runtime.shutdown import Shutdown
from services.webhook_dispatcher.metrics import DispatcherMetrics
from services.webhook_dispatcher.n8n_api import N8nApi, N8nApiRefused
from services.webhook_dispatcher.personas import POSTGRES_FAULTS, Personas

logger = logging.getLogger(__name__)

FRESH = timedelta(minutes=1)
"""Older cancels come again after a restart; what they stopped is stopped."""
MOST_AT_ONCE = 100
SECONDS = 15.0
"""For finding the execution and stopping it."""
LOOKS = 5
LOOK_SECONDS = 1.0


class Stops:
    """Which execution is a session's own is read where the tracker keeps it: any process may have learnt of it."""

    def __init__(
        self,
        personas: Personas,
        database: AsyncEngine,
        api: N8nApi,
        metrics: DispatcherMetrics,
        shutdown: Shutdown,
    ) -> None:
        self._personas = personas
        self._database = database
        self._api = api
        self._metrics = metrics
        self._shutdown = shutdown
        self._under_way: set[asyncio.Task[None]] = set()

    def cancelled(self, request: CancelRequested) -> None:
        """Begin to stop the session's execution; returns at once."""
        if datetime.now(UTC) - request.occurred_at > FRESH:
            return
        if len(self._under_way) >= MOST_AT_ONCE:
            self._metrics.stops.labels("overloaded").inc()
            return
        task = asyncio.create_task(self._stop(request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        self._shutdown.watch(task)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _stop(self, request: CancelRequested) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                outcome = await self._outcome(request)
        except (N8nApiRefused, *POSTGRES_FAULTS) as error:
            outcome = "failed"
            logger.warning("The execution of a session was not stopped: %r", error, extra=about(request.session_id))
        if outcome is not None:
            self._metrics.stops.labels(outcome).inc()

    async def _outcome(self, request: CancelRequested) -> str | None:
        persona = await self._personas.get(request.persona_id)
        if persona is None or persona.n8n_api_url is None:
            return None
        if persona.n8n_api_key is None:
            raise N8nApiRefused("The key of n8n's API cannot be decrypted; set it for the persona again.")
        execution_id = await self._execution_id(request)
        if execution_id is None:
            return "unknown"
        await self._api.stop_execution(persona.n8n_api_url, persona.n8n_api_key, execution_id)
        logger.info("The execution %s of a session was stopped.", execution_id, extra=about(request.session_id))
        return "stopped"

    async def _execution_id(self, request: CancelRequested) -> str | None:
        """Return the execution that the history of the session names, once it is CANCELLED; the tracker may lag."""
        named = session_events.c.body["executionId"].astext
        last = (
            select(named)
            .join(chat_sessions, chat_sessions.c.session_id == session_events.c.session_id)
            .where(
                session_events.c.session_id == request.session_id,
                chat_sessions.c.session_id == request.session_id,
                chat_sessions.c.persona_id == request.persona_id,
                chat_sessions.c.status == SessionStatus.CANCELLED,
                named.is_not(None),
            )
            .order_by(session_events.c.occurred_at.desc())
            .limit(1)
        )
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_SECONDS)
            async with self._database.connect() as connection:
                execution_id: str | None = await connection.scalar(last)
            if execution_id is not None:
                return execution_id
        return None
