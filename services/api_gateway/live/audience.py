"""The streams of one selection, and what they are told of each change, once it is known whether the filter finds it."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.api_gateway.database import DatabaseAway
from services.api_gateway.live.frames import with_id
from services.api_gateway.live.matching import Matcher
from services.api_gateway.live.recent import Told
from services.api_gateway.live.stream import End, Stream
from services.api_gateway.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

MOST_UNDECIDED = 5_000
"""Changes that wait for PostgreSQL's word."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A change, before it is known whether the filter finds it."""

    told: Told
    position: bytes
    at: float
    """When it was published, in Unix seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Changes that come together, and who is to be told of them; `after` is told once they are."""

    changes: Sequence[Undecided]
    streams: Sequence[Stream]
    after: bytes = b""


class Audience:
    """Tells its turns one after the other. Without a matcher every change is told, at once."""

    def __init__(self, matcher: Matcher | None, metrics: GatewayMetrics) -> None:
        self.streams: set[Stream] = set()
        self._matcher = matcher
        self._metrics = metrics
        self._batch: list[Undecided] = []
        self._turns: deque[Turn] = deque()

    @property
    def is_undecided(self) -> bool:
        """Whether there is something that it has not told yet."""
        return bool(self._turns)

    def gather(self, change: Undecided) -> None:
        """Take a change, to be told with others."""
        self._batch.append(change)

    def gathered(self) -> Turn:
        """Return what was gathered, for the streams that there are now, and begin anew."""
        changes, self._batch = self._batch, []
        return Turn(changes, tuple(self.streams))

    def take(self, turn: Turn) -> None:
        """Tell this after all that came before; where too much waits to be decided, end the streams."""
        if self._matcher is None:
            for change in turn.changes:
                self._tell(turn.streams, change, change.told.frame)
            _put(turn.streams, turn.after)
        elif sum(len(waiting.changes) for waiting in self._turns) > MOST_UNDECIDED:
            self._end(End.DATABASE_AWAY)
        else:
            self._turns.append(turn)

    async def decide(self, leave: asyncio.Semaphore) -> None:
        """Let PostgreSQL decide all that waits, each time with the semaphore's leave."""
        while self._turns and self._matcher is not None:
            async with leave:
                turn = self._turns[0]
                await self._decide(turn, self._matcher)
                if self._turns and self._turns[0] is turn:
                    self._turns.popleft()

    async def _decide(self, turn: Turn, matcher: Matcher) -> None:
        try:
            found = await matcher.find([change.told for change in turn.changes])
        except DatabaseAway:
            self._end(End.DATABASE_AWAY)
        except Exception:
            # As with any request, one filter's bug must not take the process from everyone else.
            logger.exception("A bug in deciding which changes a filter finds.")
            self._end(End.FAILED)
        else:
            for change, said in zip(turn.changes, found, strict=True):
                if said.holds:
                    self._tell(turn.streams, change, change.told.frame)
                elif said.held:
                    self._tell(turn.streams, change, change.told.left)
            _put(turn.streams, turn.after)

    def _tell(self, streams: Sequence[Stream], change: Undecided, frame: bytes) -> None:
        self._metrics.told_live(change.at)
        _put(streams, with_id(change.position, frame))

    def _end(self, why: End) -> None:
        for stream in self.streams:
            stream.end(why)
        self._turns.clear()


def _put(streams: Sequence[Stream], frame: bytes) -> None:
    for stream in streams:
        stream.put(frame)
