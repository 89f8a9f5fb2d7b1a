"""One partition at work: its messages from their arrival to their last acknowledgement.

Conversations run side by side, the messages of one in turn.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from datetime import UTC, datetime
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.contracts import BadRecord, CancelRequested, MessageSent, admit
from services.contracts.codec import decode
from services.contracts.topics import DISPATCHER_GROUP, MESSAGES
from services.runtime.dead_letters import DeadLetter, DeadLetters, meant_for_another_group
from services.runtime.kafka import NotAcknowledged
from services.runtime.records import RawRecord
from services.runtime.shutdown import Shutdown
from services.runtime.tracing import Tracer
from services.webhook_dispatcher.catch_up import CatchUp, cancel_request, ended_session
from services.webhook_dispatcher.conversation import Conversation, ending
from services.webhook_dispatcher.deliveries import Deliveries
from services.webhook_dispatcher.metrics import DispatcherMetrics, End
from services.webhook_dispatcher.spans import delivery_span
from services.webhook_dispatcher.stops import Stops
from services.webhook_dispatcher.tracking import KnownSessions, Message
from services.webhook_dispatcher.window import Bounds, Window

RETRY_SECONDS = 1.0
LATER_OLD_IDS_MS = 30_000
"""How much further back than needed is read, so that ids minted at about the same time need no second reading."""


class Partition:
    """One partition that this process was given. `bounds` are of what is taken and not finished."""

    def __init__(
        self,
        number: int,
        consumer: AIOKafkaConsumer,
        *,
        deliveries: Deliveries,
        stops: Stops,
        dead_letters: DeadLetters,
        metrics: DispatcherMetrics,
        shutdown: Shutdown,
        tracer: Tracer | None,
        bounds: Bounds,
    ) -> None:
        self.topic_partition = TopicPartition(MESSAGES.name, number)
        self._consumer = consumer
        self._deliveries = deliveries
        self._stops = stops
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._shutdown = shutdown
        self._tracer = tracer
        self._window = Window(bounds)
        self._known = KnownSessions()
        self._reader = CatchUp(consumer, number)
        self._waiting: deque[Message] = deque()
        self._under_way: dict[UUID, Message] = {}
        self._conversations: dict[str, Conversation] = {}
        self._refusals: set[asyncio.Task[None]] = set()
        self._learning: asyncio.Task[None] | None = None
        self._catching_up = True
        self._paused = True
        self._released = False

    def open(self) -> None:
        """Begin: the partition's topics are paused and nothing of them was handed over yet."""
        self._learn(self._open())

    @property
    def held(self) -> int:
        """Records that are taken and not finished."""
        return len(self._window)

    @property
    def paused(self) -> bool:
        """True while no messages are taken."""
        return self._paused

    def committable(self) -> int | None:
        """Return the lowest offset that is not done; None before the first record."""
        return self._window.committable()

    def not_ready(self) -> str | None:
        """Return why the partition does not get on, None if it does."""
        return self._reader.fault

    def take_message(self, record: RawRecord) -> None:
        """Begin with a record of `chat.messages.v1`."""
        if not self._window.take(record.offset, len(record.value or b"")):
            return
        self._regulate()
        if meant_for_another_group(record, DISPATCHER_GROUP):
            self._finish(record.offset, End.OTHER_GROUP)
            return
        try:
            event = decode(record.topic, record.headers, record.value)
            admit(event, datetime.now(UTC))
        except BadRecord as cause:
            task = asyncio.create_task(self._refuse(record, cause))
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
            self._shutdown.watch(task)
            return
        if isinstance(event, MessageSent):
            self._waiting.append(Message(event, record.offset, delivery_span(self._tracer, record, event)))
            if not self._catching_up:
                self._start_covered()

    def take_result(self, record: RawRecord) -> None:
        """Learn from a record of `chat.results.v1`."""
        if (ended := ended_session(record, datetime.now(UTC))) is not None:
            self._known.add(*ended)
        self._reader.handled(record)

    def take_control(self, record: RawRecord) -> None:
        """Act on a record of `chat.control.v1`."""
        ours = not meant_for_another_group(record, DISPATCHER_GROUP)
        if ours and (request := cancel_request(record, datetime.now(UTC))) is not None:
            self._cancel(request)
            self._stops.cancelled(request)
        self._reader.handled(record)

    def relieve(self) -> None:
        """Fail the latest messages of personas that do not get on and hold more than their share of the window."""
        if self._released:
            return
        for persona_id in self._window.all_beyond_share():
            latest = reversed(list(self._under_way.values()))
            while self._is_too_much(persona_id) and (message := next(latest, None)) is not None:
                if message.event.persona_id == persona_id and not message.overloaded:
                    self._overload(message)
        self._relieve_of_paused()

    def release(self) -> set[asyncio.Task[None]]:
        """Begin nothing more; let go of all that waits. Return the tasks of what cannot be let go at once."""
        self._released = True
        if self._learning is not None:
            self._learning.cancel()
        for message in self._under_way.values():
            message.released = True
        for conversation in self._conversations.values():
            conversation.release()
        return self.tasks()

    def tasks(self) -> set[asyncio.Task[None]]:
        """Return what runs for this partition."""
        working = {conversation.task for conversation in self._conversations.values() if conversation.task is not None}
        return {task for task in working | self._refusals if not task.done()}

    def unfinished(self) -> list[Message]:
        """Return the messages that are not done."""
        return [*self._waiting, *self._under_way.values()]

    async def _open(self) -> None:
        if await self._reader.has_backlog():
            # The first message tells from where on to learn.
            self._catching_up = False
            self._regulate()
        else:
            await self._catch_up(int(time.time() * 1000))

    async def _catch_up(self, target_ms: int) -> None:
        while True:
            self._metrics.catch_ups.inc()
            from_ms = min([target_ms, *(message.sent_ms for message in self._waiting)]) - LATER_OLD_IDS_MS
            self._known.begin_reading(from_ms, target_ms)
            await self._reader.read(from_ms)
            self._known.end_reading()
            self._start_covered()
            if not self._waiting:
                break
            target_ms = self._waiting[0].sent_ms
        self._catching_up = False
        self._regulate()

    def _start_covered(self) -> None:
        while self._waiting and self._known.covers(self._waiting[0].sent_ms):
            self._start(self._waiting.popleft())
        if self._waiting and not self._catching_up:
            self._catching_up = True
            self._regulate()
            self._learn(self._catch_up(self._waiting[0].sent_ms))

    def _start(self, message: Message) -> None:
        session_id = message.session_id
        if session_id in self._under_way or self._known.needs_no_call(session_id, message.event.identity):
            message.span.end()
            self._finish(message.offset, End.KNOWN)
            return
        self._under_way[session_id] = message
        conversation_id = message.event.conversation_id
        conversation = self._conversations.get(conversation_id)
        if conversation is None:
            conversation = self._conversations[conversation_id] = Conversation()
        conversation.messages.append(message)
        self._window.hold(message.offset, message.event.persona_id)
        if self._is_too_much(message.event.persona_id):
            self._overload(message)
        if conversation.task is None:
            conversation.task = asyncio.create_task(self._work(conversation_id, conversation))
            self._shutdown.watch(conversation.task)

    async def _work(self, conversation_id: str, conversation: Conversation) -> None:
        while conversation.messages and not self._released:
            message = conversation.messages[0]
            if not message.cancelled and not await self._deliveries.deliver(message):
                return
            conversation.messages.popleft()
            self._end(message, ending(message))
        if not conversation.messages:
            del self._conversations[conversation_id]

    def _cancel(self, request: CancelRequested) -> None:
        self._known.add(request.session_id, request.identity)
        message = self._under_way.get(request.session_id)
        if message is None or message.event.identity != request.identity or message.cancelled:
            return
        if self._conversations[request.conversation_id].cancel(message):
            self._end(message, End.CANCELLED)

    def _relieve_of_paused(self) -> None:
        """Fail what waits for paused personas, and keeps others behind it waiting, beyond half of the window."""
        held = [
            conversation.messages
            for conversation in self._conversations.values()
            if self._deliveries.paused(conversation.messages[0].event.persona_id) and conversation.is_held
        ]
        held.sort(key=lambda messages: messages[0].offset)
        for number in self._window.too_much([[message.offset for message in messages] for messages in held]):
            persona_id = held[number][0].event.persona_id
            last = next(message for message in reversed(held[number]) if message.event.persona_id == persona_id)
            if not last.overloaded:
                self._overload(last)

    def _is_too_much(self, persona_id: str) -> bool:
        return self._window.beyond_share(persona_id) and self._deliveries.stuck(persona_id)

    def _overload(self, last: Message) -> None:
        for message in self._conversations[last.event.conversation_id].overload(last):
            self._window.let_go(message.offset)

    def _end(self, message: Message, end: End) -> None:
        del self._under_way[message.session_id]
        self._known.add(message.session_id, None)
        message.span.end()
        self._finish(message.offset, end)

    async def _refuse(self, record: RawRecord, cause: BadRecord) -> None:
        while True:
            try:
                await self._dead_letters.publish([DeadLetter(record, cause)])
            except NotAcknowledged:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        self._finish(record.offset, End.REFUSED)

    def _finish(self, offset: int, end: End) -> None:
        self._metrics.finished[end].inc()
        self._window.finish(offset)
        self._regulate()

    def _regulate(self) -> None:
        pause = self._catching_up or self._window.full
        if pause is self._paused or self._released:
            return
        self._paused = pause
        if pause:
            self._consumer.pause(self.topic_partition)
        else:
            self._consumer.resume(self.topic_partition)

    def _learn(self, learning: Coroutine[None, None, None]) -> None:
        self._learning = asyncio.create_task(learning)
        self._shutdown.watch(self._learning)
