"""Every metric of the dispatcher."""

from enum import Enum
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime.exemplars import Exemplars
from services.runtime.persona_labels import PersonaGauge, PersonaLabels

NO_PERSONA = "(unknown)"
"""The persona label of what names a persona that does not exist: a publisher must not be able to make labels."""

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class End(Enum):
    """How a message came to need no more work."""

    CALLED = "called"
    KNOWN = "known"
    CANCELLED = "cancelled"
    OVERLOADED = "overloaded"
    REFUSED = "refused"
    OTHER_GROUP = "other-group"


class PersonaMetrics:
    """The calls of one persona, as metrics: looking up labels takes longer than counting, so it is done once."""

    def __init__(self, attempts: Counter, seconds: Histogram, label: str) -> None:
        self._label = label
        self._attempts = attempts
        self._outcomes: dict[str, Counter] = {}
        self._seconds = seconds.labels(label)
        self._exemplars = Exemplars()

    def ended(self, outcome: str, seconds: float, traceparent: str) -> None:
        """A call of that trace ended after so many seconds; `outcome` as in the metric of attempts."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._attempts.labels(self._label, outcome)
        counter.inc()
        self._seconds.observe(seconds, self._exemplars.of(traceparent, seconds))


class DispatcherMetrics:
    """Declared once a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._personas = PersonaLabels()
        self._attempts = counter(
            "chat_webhook_attempts",
            "Webhook calls that ended, and messages given up without one, by outcome: replied, accepted, cancelled, or "
            "the failure kind",
            ["persona", "outcome"],
        )
        self._seconds = histogram(
            "chat_webhook_seconds",
            "Time from the start of a webhook call to the end of its answer",
            ["persona"],
            buckets=_SECONDS,
        )
        self.in_flight = gauge("chat_webhook_calls_in_flight", "Webhook calls that run now")
        breaker = gauge(
            "chat_webhook_breaker_state", "Circuit breaker of a persona: 0 closed, 1 half-open, 2 open", ["persona"]
        )
        limit = gauge(
            "chat_webhook_calls_limit",
            "Calls that a persona's webhook may run at the same time, as found by trying",
            ["persona"],
        )
        self._retries = counter("chat_webhook_retries", "Failed calls that are made again", ["persona", "kind"])
        finished = counter(
            "chat_dispatcher_finished_messages",
            "Messages that need no more work, by how they ended: called, known (done before), cancelled, overloaded, "
            "refused (dead-lettered), other-group",
            ["end"],
        )
        self.finished = {end: finished.labels(end.value) for end in End}
        self.held = gauge(
            "chat_dispatcher_held_messages", "Messages of a partition that are taken and not finished", ["partition"]
        )
        self.paused = gauge("chat_dispatcher_paused_partition", "1 while a partition is held back", ["partition"])
        self.catch_ups = counter(
            "chat_dispatcher_catch_ups", "Times that a partition read again what is known of its sessions"
        )
        self.stops = counter(
            "chat_webhook_execution_stops",
            "Executions of cancelled sessions to be stopped in n8n, by outcome: stopped, unknown (no event names the "
            "execution), failed, overloaded",
            ["outcome"],
        )
        self.deltas = counter(
            "chat_dispatcher_reply_deltas",
            "Pieces of streamed replies, by fate: published, or dropped because Kafka did not take them at once",
            ["fate"],
        )
        self.unacknowledged = counter(
            "chat_dispatcher_unacknowledged_results",
            "Results that Kafka did not acknowledge and that were published again",
        )

        self.breaker = PersonaGauge(breaker, self._personas, max)
        self.limit = PersonaGauge(limit, self._personas, min)

    def of_persona(self, persona_id: str) -> PersonaMetrics:
        """Return what counts the calls of this persona."""
        return PersonaMetrics(self._attempts, self._seconds, self._personas.of(persona_id))

    def ended_uncalled(self, persona_id: str, outcome: str) -> None:
        """A message ended without a call that came to its end; `outcome` as in the metric of attempts."""
        known = persona_id if persona_id == NO_PERSONA else self._personas.of(persona_id)
        self._attempts.labels(known, outcome).inc()

    def retried(self, persona_id: str, kind: str) -> None:
        """A call that failed in this way is made again."""
        self._retries.labels(self._personas.of(persona_id), kind).inc()
