"""One message from the head of its conversation to its result: persona, slot, breaker, calls, retries."""

import asyncio
import random
import time
from datetime import UTC, datetime

from services.contracts import AttemptOutcome, FailureKind
from services.contracts.callbacks import Callback, CallbackUrls
from services.contracts.replies import Reply
from services.runtime.tracing import Tracer
from services.webhook_dispatcher import result_events
from services.webhook_dispatcher.callbacks import Accepted, callback_of, judge_call
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.delivery import Failed
from services.webhook_dispatcher.deltas import Deltas
from services.webhook_dispatcher.gate import Gate
from services.webhook_dispatcher.metrics import NO_PERSONA, DispatcherMetrics
from services.webhook_dispatcher.n8n import N8n, unheard
from services.webhook_dispatcher.outcomes import Exchange
from services.webhook_dispatcher.personas import Persona, Personas
from services.webhook_dispatcher.refusals import (
    EXPIRED,
    TOO_MUCH_PAUSED,
    TOO_MUCH_STUCK,
    Refusal,
    callable_persona,
    past_deadline,
    seconds_kept,
)
from services.webhook_dispatcher.results import Results
from services.webhook_dispatcher.retries import retry_delay
from services.webhook_dispatcher.slots import Slots
from services.webhook_dispatcher.spans import call_span, end_call
from services.webhook_dispatcher.tracking import Message, Phase


class Deliveries:
    """Delivers messages. At most `max_calls` webhook calls run at the same time."""

    def __init__(
        self,
        personas: Personas,
        n8n: N8n,
        results: Results,
        deltas: Deltas,
        metrics: DispatcherMetrics,
        tracer: Tracer | None,
        *,
        max_calls: int,
        timeout_hours: float,
        callback_urls: CallbackUrls | None,
    ) -> None:
        self._personas = personas
        self._n8n = n8n
        self._results = results
        self._deltas = deltas
        self._metrics = metrics
        self._tracer = tracer
        self._slots = Slots(max_calls)
        metrics.in_flight.set_function(self._slots.taken)
        self._timeout_hours = timeout_hours
        self._callback_urls = callback_urls
        self._gates: dict[str, Gate] = {}

    async def deliver(self, message: Message) -> bool:
        """Return True once the message is done: its result is acknowledged, or it is cancelled; False if released.

        To cancel a message set `message.cancelled`, then, unless it is QUEUED or PUBLISHING, cancel the task that runs
        this: a running call is broken off and told as such. To fail one that is QUEUED or WAITING as overloaded, set
        `message.overloaded` likewise. A task that is cancelled without a flag lets go of the message and publishes
        nothing more.
        """
        try:
            return await self._deliver(message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not (message.cancelled or message.overloaded) or message.released or task is None:
                raise
            task.uncancel()
            if message.phase is Phase.CALLING and message.course is not None:
                message.phase = Phase.PUBLISHING
                await self._tell_cancelled(message, message.course)
            elif not message.cancelled:
                await self._give_up(message, self._too_much(message))
            return True

    def stuck(self, persona_id: str) -> bool:
        """Tell whether the persona does not get on: calls hang, the breaker is not closed, or it is paused."""
        gate = self._gates.get(persona_id)
        return gate is not None and gate.stuck()

    def paused(self, persona_id: str) -> bool:
        """Tell whether the persona's messages are held back."""
        gate = self._gates.get(persona_id)
        return gate is not None and gate.paused

    def expire(self) -> None:
        """Learn of pauses, and end the waiting of messages whose time has passed. To be called every second or so."""
        for persona_id, gate in self._gates.items():
            persona = self._personas.known(persona_id)
            gate.set_paused(persona is not None and persona.paused)
            gate.expire()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        for gate in self._gates.values():
            gate.measure()

    async def _deliver(self, message: Message) -> bool:
        message.phase = Phase.WAITING
        if message.overloaded:
            return await self._give_up(message, self._too_much(message))
        persona = await self._personas.get(message.event.persona_id)
        # Not before: finding the persona takes as long as PostgreSQL is away.
        if isinstance(found := self._callable(message, persona), Refusal):
            return await self._give_up(message, found)
        return await self._attempt_until_done(message, found, self._gate(found))

    def _callable(self, message: Message, persona: Persona | None) -> Persona | Refusal:
        takes_callbacks = self._callback_urls is not None
        return callable_persona(message, persona, time.time(), self._timeout_hours, takes_callbacks=takes_callbacks)

    async def _attempt_until_done(self, message: Message, persona: Persona, gate: Gate) -> bool:
        seconds_left = persona.deadline_seconds
        while not message.released:
            kept = seconds_kept(message, persona, time.time(), self._timeout_hours)
            let_in = await gate.enter(seconds_left, persona.timeout_seconds, kept)
            # What a pause was for may have changed the persona, or ended it.
            found = self._callable(message, self._personas.known(persona.persona_id))
            if let_in is None:
                waited_in_pause = gate.paused and seconds_left > 0
                return await self._give_up(message, EXPIRED if waited_in_pause else past_deadline(gate.kind))
            if isinstance(found, Refusal):
                gate.abandoned(time.monotonic())
                return await self._give_up(message, found)
            persona, deadline = found, time.monotonic() + let_in
            exchange = await self._call(message, persona, gate, let_in)
            delay = await self._conclude(message, persona, gate, exchange, deadline)
            if delay is None or message.cancelled:
                return True
            await asyncio.sleep(delay)
            seconds_left = deadline - time.monotonic()
        return False

    async def _call(self, message: Message, persona: Persona, gate: Gate, seconds_left: float) -> Exchange:
        message.attempt += 1
        message.phase = Phase.CALLING
        message.course = course = Course(
            time.monotonic(),
            min(persona.timeout_seconds, seconds_left),
            persona.first_byte_seconds,
            persona.idle_seconds,
        )
        message.callback = self._callback(message, persona)
        message.call_span = span = call_span(self._tracer, message, persona)
        delta_writer = self._deltas.writer(message.event, message.attempt, span.traceparent)
        try:
            exchange = await self._n8n.call(
                persona,
                message.event,
                course,
                traceparent=span.traceparent,
                # What an acknowledgement streams is not the reply.
                hear=delta_writer.hear if message.callback is None else unheard,
                callback_url=self._callback_url(message),
            )
        except asyncio.CancelledError:
            gate.abandoned(course.began)
            end_call(self._tracer, message, None, AttemptOutcome.CANCELLED)
            raise
        finally:
            delta_writer.flush()
        # No await lies between the answer and this: a cancel finds either a running call or a result under way.
        message.phase = Phase.PUBLISHING
        return exchange

    async def _conclude(
        self, message: Message, persona: Persona, gate: Gate, exchange: Exchange, deadline: float
    ) -> float | None:
        """Publish how a call ended. Return in how many seconds the next is due, None if there is none."""
        verdict = judge_call(exchange.outcome, message.callback)
        gate.note(verdict, exchange.course.began)
        failure = verdict.kind if isinstance(verdict, Failed) else None
        end_call(self._tracer, message, exchange.status, failure)
        gate.metrics.ended(_outcome(verdict), exchange.duration_ms / 1000, message.traceparent)
        now = datetime.now(UTC)
        delay = None
        if isinstance(verdict, Failed):
            delay = _delay(message, persona, verdict, now, deadline)
            if delay is None:
                message.span.fail(verdict.kind)
            else:
                self._metrics.retried(persona.persona_id, verdict.kind.value)
        await self._results.publish(result_events.ended(message, exchange, verdict, now, delay), message.span)
        if delay is None:
            return None
        message.phase = Phase.WAITING
        return 0.0 if message.released else delay

    def _too_much(self, message: Message) -> Refusal:
        return TOO_MUCH_PAUSED if self.paused(message.event.persona_id) else TOO_MUCH_STUCK

    async def _give_up(self, message: Message, refusal: Refusal) -> bool:
        """Fail the session without another call."""
        message.phase = Phase.PUBLISHING
        message.span.fail(refusal.kind)
        persona_id = NO_PERSONA if refusal.kind is FailureKind.UNKNOWN_PERSONA else message.event.persona_id
        self._metrics.ended_uncalled(persona_id, refusal.kind.value)
        event = result_events.given_up(message, refusal.kind, refusal.explanation, datetime.now(UTC))
        await self._results.publish(event, message.span)
        return True

    async def _tell_cancelled(self, message: Message, course: Course) -> None:
        self._metrics.ended_uncalled(message.event.persona_id, AttemptOutcome.CANCELLED.value)
        duration_ms = course.duration_ms(time.monotonic())
        event = result_events.cancelled(message, course, duration_ms, datetime.now(UTC))
        await self._results.publish(event, message.span)

    def _gate(self, persona: Persona) -> Gate:
        gate = self._gates.get(persona.persona_id)
        if gate is None:
            gate = self._gates[persona.persona_id] = Gate(persona.persona_id, self._slots, self._metrics)
            gate.set_paused(persona.paused)
        return gate

    def _callback(self, message: Message, persona: Persona) -> Callback | None:
        if (seconds := persona.callback_seconds) is None:
            return None
        longest_hours = persona.session_timeout_hours or self._timeout_hours
        return callback_of(message, seconds, datetime.now(UTC), longest_hours)

    def _callback_url(self, message: Message) -> str | None:
        if message.callback is None or self._callback_urls is None:
            return None
        return self._callback_urls.url(message.callback)


def _delay(message: Message, persona: Persona, failed: Failed, now: datetime, deadline: float) -> float | None:
    """Return in how many seconds a failed call is made again, None if it is not."""
    return retry_delay(
        failed,
        attempt=message.attempt,
        max_attempts=persona.max_attempts,
        idempotent=persona.idempotent,
        now=now,
        seconds_left=deadline - time.monotonic(),
        chance=random.random(),  # noqa: S311 - spreads retries, guards nothing
    )


def _outcome(verdict: Reply | Accepted | Failed) -> str:
    if isinstance(verdict, Failed):
        return verdict.kind.value
    return "replied" if isinstance(verdict, Reply) else AttemptOutcome.ACCEPTED.value
