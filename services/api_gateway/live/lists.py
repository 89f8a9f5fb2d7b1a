"""Streams of lists: every change of the sessions that a selection finds. Each is encoded once for all who are told."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from enum import StrEnum

from services.api_gateway.database import Database
from services.api_gateway.filters.meaning import EVERYTHING
from services.api_gateway.live.audience import Audience, Turn, Undecided
from services.api_gateway.live.erased import Erased, erased_lately
from services.api_gateway.live.frames import STILL_THERE, event, with_id, with_retry
from services.api_gateway.live.matching import Matcher
from services.api_gateway.live.positions import Offsets, list_id
from services.api_gateway.live.recent import Change, RecentChanges
from services.api_gateway.live.stream import MOST_BYTES, MOST_FRAMES, RETRY_MS, Stream
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.selection import Selection

MOST_MISSED, MOST_MISSED_BYTES = MOST_FRAMES // 2, MOST_BYTES // 2
"""Changes that a client is told which it missed; with more it had better read its list again."""
AT_ONCE = 2
"""Filters that PostgreSQL is asked about at the same time: it has other work too."""
AHEAD_SECONDS = 1.0
"""For a client that another gateway told more than this one has read."""
READ_TOGETHER = 200

_POSITION = event("position", {})


class Reload(StrEnum):
    """Why a client has to read its list again."""

    GONE = "gone"
    TOO_MUCH = "too-much"


class LiveLists:
    """Who watches which list."""

    def __init__(self, database: Database, metrics: GatewayMetrics) -> None:
        self._database = database
        self._metrics = metrics
        self._recent = RecentChanges()
        self._audiences: dict[str | None, dict[Selection, Audience]] = {}
        self._touched: set[Audience] = set()
        self._undecided: set[Audience] = set()
        self._has_undecided = asyncio.Event()
        self._came = asyncio.Event()

    @property
    def offsets(self) -> Offsets:
        """What comes next of each partition; nothing before `begin`."""
        return self._recent.ends

    def begin(self, offsets: Sequence[int]) -> None:
        """Take what follows as unconnected with what came before: who watches must read his list again."""
        self.flush()
        self._recent.begin(offsets)
        for audience in self._all():
            self._take(audience, Turn((), tuple(audience.streams), self._reload(Reload.GONE)))

    def change(self, change: Change) -> bool:
        """Take the next change; return False, and do nothing, where records are missing before it."""
        if not self._recent.add(change):
            return False
        self._came.set()
        if self._audiences and (told := change.told) is not None:
            audiences = [*self._audiences_of(told.user_id), *self._audiences_of(None)]
            if audiences:
                one = Undecided(told, list_id(self._recent.ends), change.at)
                for audience in audiences:
                    audience.gather(one)
                self._touched.update(audiences)
        return True

    def flush(self) -> None:
        """Tell the changes taken since the last time, all together."""
        for audience in self._touched:
            self._take(audience, audience.gathered())
        self._touched.clear()

    async def run(self) -> None:
        """Tell of what PostgreSQL has to decide, for ever."""
        leave = asyncio.Semaphore(AT_ONCE)
        while True:
            await self._has_undecided.wait()
            self._has_undecided.clear()
            undecided, self._undecided = self._undecided, set()
            await asyncio.gather(*(audience.decide(leave) for audience in undecided))

    async def matcher(self, selection: Selection) -> Matcher | None:
        """Return what decides which changes the selection finds; raise DatabaseAway while PostgreSQL is."""
        if selection.filter == EVERYTHING:
            return None
        matcher = Matcher(self._database, selection.filter)
        await matcher.find([])
        return matcher

    async def read(self, known: Offsets) -> Erased | None:
        """Read what came after `known`, little by little, for `watched` does it without a break.

        Where `known` is ahead of what Kafka has told here, wait for it, for a second. Returns whose data was erased
        meanwhile; None while PostgreSQL does not tell.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AHEAD_SECONDS):
                while self._is_ahead(known):
                    self._came.clear()
                    await self._came.wait()
        missed = None if self._is_ahead(known) else self._recent.since(known)
        for number, change in enumerate(missed or ()):
            _ = change.told
            if number % READ_TOGETHER == 0:
                await asyncio.sleep(0)
        return await erased_lately(self._database)

    @contextlib.contextmanager
    def watched(
        self,
        selection: Selection,
        matcher: Matcher | None,
        stream: Stream,
        known: Offsets | None = None,
        erased: Erased | None = None,
    ) -> Iterator[None]:
        """Let the stream tell what changes from now on, and before that what came after `known` and is not erased."""
        audiences = self._audiences.setdefault(selection.user_id, {})
        audience = audiences.setdefault(selection, Audience(matcher, self._metrics))
        missed = [] if known is None else self._missed(selection, known, erased)
        self._greet(audience, stream, known, missed)
        audience.streams.add(stream)
        try:
            yield
        finally:
            audience.streams.discard(stream)
            if not audience.streams:
                del audiences[selection]
                if not audiences:
                    del self._audiences[selection.user_id]

    def beat(self, selection: Selection) -> bytes:
        """Return what a client of this selection is told to which nothing has been told for long."""
        audience = self._audiences.get(selection.user_id, {}).get(selection)
        # The position says that everything before it was told.
        if audience is None or audience.is_undecided:
            return STILL_THERE
        return with_id(list_id(self._recent.ends), _POSITION)

    def _greet(
        self, audience: Audience, stream: Stream, known: Offsets | None, missed: list[Undecided] | Reload
    ) -> None:
        begins = self._recent.ends if known is None or isinstance(missed, Reload) else known
        # Clients that were cut off together do not all come back at once.
        stream.put(with_retry(random.randint(*RETRY_MS), with_id(list_id(begins), _POSITION)))  # noqa: S311
        if isinstance(missed, Reload):
            stream.put(self._reload(missed))
        elif missed:
            self._take(audience, Turn(missed, (stream,)))

    def _take(self, audience: Audience, turn: Turn) -> None:
        audience.take(turn)
        if audience.is_undecided:
            self._undecided.add(audience)
            self._has_undecided.set()

    def _missed(self, selection: Selection, known: Offsets, erased: Erased | None) -> list[Undecided] | Reload:
        missed = None if self._is_ahead(known) else self._recent.since(known)
        if missed is None or erased is None:
            return Reload.GONE
        found: list[Undecided] = []
        offsets, size = list(known), 0
        for change in missed:
            offsets[change.partition] = change.offset + 1
            told = change.told
            if told is not None and selection.user_id in {None, told.user_id} and not erased.holds(told):
                size += len(told.frame)
                if len(found) == MOST_MISSED or size > MOST_MISSED_BYTES:
                    return Reload.TOO_MUCH
                found.append(Undecided(told, list_id(offsets), change.at))
        return found

    def _reload(self, why: Reload) -> bytes:
        return with_id(list_id(self._recent.ends), event("reload", {"reason": why}))

    def _is_ahead(self, known: Offsets) -> bool:
        return any(offset > end for offset, end in zip(known, self._recent.ends, strict=True))

    def _audiences_of(self, user_id: str | None) -> list[Audience]:
        return list(self._audiences.get(user_id, {}).values())

    def _all(self) -> list[Audience]:
        return [audience for audiences in self._audiences.values() for audience in audiences.values()]
