"""Tells what ended by the clock: written down with the ending, forgotten once told, so that a crash hides nothing."""

from aiokafka import AIOKafkaProducer

from services.contracts.session import SessionStatus
from services.session_tracker import statements as sql
from services.session_tracker.changes import publish_changes
from services.session_tracker.endings import Chunk
from services.session_tracker.store import SessionStore


class UntoldChunks:
    """Chunks that are committed and perhaps not told. Every method raises PassingFault."""

    def __init__(self, sessions: SessionStore, producer: AIOKafkaProducer) -> None:
        self._sessions = sessions
        self._producer = producer

    async def tell(self, chunk: Chunk) -> None:
        """Publish a chunk that was just committed."""
        if not chunk.transitions:
            return
        await publish_changes(self._producer, ((t.session, t.previous) for t in chunk.transitions))
        async with self._sessions.transaction() as driver:
            await driver.execute(sql.FORGET_UNTOLD, chunk.chunk_id)

    async def tell_left_over(self) -> None:
        """Publish what is untold, whoever ended it. What another process is about to tell is told twice."""
        async with self._sessions.transaction() as driver:
            left_over = await driver.fetch(sql.READ_UNTOLD)
        for chunk_id, session_ids in left_over:
            sessions = await self._sessions.read(session_ids)
            await publish_changes(self._producer, ((session, SessionStatus.ACTIVE) for session in sessions))
            async with self._sessions.transaction() as driver:
                await driver.execute(sql.FORGET_UNTOLD, chunk_id)
