"""Streams of one session each: its changes, and its reply while that is being written."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from services.api_gateway.live.frames import STILL_THERE, event, with_id, with_retry
from services.api_gateway.live.positions import SessionPosition, session_id
from services.api_gateway.live.recent import Change, Delta, RecentDeltas, Told
from services.api_gateway.live.stream import RETRY_MS, End, Stream
from services.api_gateway.metrics import GatewayMetrics
from services.runtime.pseudonyms import is_erased

Json = dict[str, Any]


class SessionWatch:
    """What one stream has told of its session. Nothing is told before `begin`, and no version twice."""

    def __init__(self, key: str, stream: Stream, known: SessionPosition, deltas: RecentDeltas) -> None:
        self.version = 0
        """The highest that was told, or heard of."""
        self._key = key
        self._stream = stream
        self._delta_offset = known.delta_offset
        self._deltas = deltas
        self._user_id: str | None = None

    def begin(self, session: Json, *, is_known: bool) -> None:
        """Tell the session as it was read, unless the client has it, and its pieces so far; then what comes."""
        self._user_id = session["userId"]
        self.version = session["version"]
        if is_known:
            self._stream.put(STILL_THERE)  # so that the answer is under way
        else:
            self._tell(with_retry(random.randint(*RETRY_MS), event("session", session)))  # noqa: S311
        earlier = [self._piece(delta) for delta in self._deltas.of(self._key, self._delta_offset)]
        self._stream.put(b"".join(earlier))  # as one, for there may be more than would have room one by one

    def change(self, told: Told) -> None:
        """Take a change of the session."""
        if told.version <= self.version:
            return
        self.version = told.version
        is_erased_now = self._user_id is not None and is_erased(told.user_id)
        if self._user_id != told.user_id and not is_erased_now:  # not begun, or not of this session's user
            return
        if told.status.ended or is_erased_now:
            # Of an erased one its user has seen the end, and an admin comes back to what is left.
            self._stream.end(End.SESSION_ENDED)
        else:
            self._tell(told.frame)

    def hear(self, delta: Delta) -> None:
        """Take a piece of the session's reply."""
        if self._user_id is None:
            return
        self._stream.put(self._piece(delta))

    def at_end(self, session: Json) -> bytes:
        """Return what the stream ends with: the session as it ended."""
        self.version = session["version"]
        return self._with_id(event("session", session))

    def _piece(self, delta: Delta) -> bytes:
        self._delta_offset = delta.offset + 1
        read = delta.read()
        return b"" if read is None or read[0] != self._user_id else self._with_id(read[1])

    def _tell(self, frame: bytes) -> None:
        self._stream.put(self._with_id(frame))

    def _with_id(self, frame: bytes) -> bytes:
        return with_id(session_id(SessionPosition(self.version, self._delta_offset)), frame)


class LiveSessions:
    """Who watches which session."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._deltas = RecentDeltas()
        self._watches: dict[str, set[SessionWatch]] = {}

    @contextlib.contextmanager
    def watched(self, key: str, stream: Stream, known: SessionPosition) -> Iterator[SessionWatch]:
        """Lend a SessionWatch of the session, for a client that has what comes before `known`."""
        watch = SessionWatch(key, stream, known, self._deltas)
        self._watches.setdefault(key, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[key].discard(watch)
            if not self._watches[key]:
                del self._watches[key]

    def change(self, change: Change) -> None:
        """Take a change, in the order of Kafka."""
        watches = self._watches.get(change.session_id)
        if watches and (told := change.told) is not None:
            self._metrics.told_live(change.at)
            for watch in watches:
                watch.change(told)

    def hear(self, delta: Delta) -> None:
        """Take a piece of a reply, in the order of Kafka."""
        self._deltas.add(delta)
        watches = self._watches.get(delta.session_id)
        if watches:
            self._metrics.told_live(delta.at)
            for watch in watches:
                watch.hear(delta)
