"""Every metric of the tracker, declared once."""

import math
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.contracts.session import SessionStatus
from services.runtime.exemplars import Exemplars
from services.runtime.persona_labels import PersonaLabels
from services.session_tracker.fold import Transition

_NOT_ENDED = (None, SessionStatus.ACTIVE)


class TrackerMetrics:
    """What the tracker counts. Session counters grow as changes are committed; a replayed event counts once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._personas = PersonaLabels()
        self._exemplars = Exemplars()
        self.started = counter("chat_sessions_started", "Sessions opened", ["persona"])
        self.ended = counter("chat_sessions_ended", "Sessions ended", ["persona", "status"])
        self.failures = counter("chat_session_failures", "Failed sessions by kind of failure", ["persona", "kind"])
        self.response_seconds = histogram(
            "chat_session_response_seconds",
            "Time from the message to the persona's reply, of completed sessions",
            ["persona"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300),
        )
        self.active = gauge("chat_sessions_active", "Sessions that are ACTIVE, as PostgreSQL counts")
        self.success_ratio = gauge("chat_sessions_success_ratio", "COMPLETED sessions among all, as PostgreSQL counts")
        self.events = counter("chat_events_folded", "New events folded", ["outcome"])
        self.fold_seconds = histogram(
            "chat_fold_seconds",
            "Duration of one batch: fold transaction, publishing of its changes",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.batch_records = histogram(
            "chat_fold_batch_records", "Records in one batch", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000)
        )
        self.sweeps = counter("chat_sweeps", "Sweeps finished", ["dry_run"])
        self.swept = counter("chat_sweep_timeouts", "Sessions that sweeps timed out")
        self.failed_chunks = counter("chat_sweep_failed_chunks", "Chunks that a sweep skipped")
        self.last_sweep = gauge(
            "chat_sweep_last_timestamp_seconds",
            "When the last regular sweep that finished was due, as PostgreSQL tells; 0 = there was none",
        )
        self.folded_up_to = gauge(
            "chat_fold_progress_timestamp_seconds",
            "Up to when every partition is folded, as PostgreSQL tells: it moves on while nothing is published, too",
        )
        self.partitions_until = gauge(
            "chat_partitions_until_timestamp_seconds",
            "Until when sessions have partitions to go into, as PostgreSQL tells",
        )
        for told_by_postgres in (self.last_sweep, self.folded_up_to, self.partitions_until):
            # No time at all is known before PostgreSQL has told one: 0 would be the longest ago.
            told_by_postgres.set(math.nan)
        self.months_dropped = counter("chat_retention_months_dropped", "Months that retention dropped")
        self.months_overdue = gauge(
            "chat_retention_months_overdue", "Months kept past their time for ACTIVE sessions in them"
        )
        self.anonymised = counter("chat_sessions_anonymised", "Sessions whose metadata lost personal data")
        self.republished = counter("chat_messages_republished", "Messages that Kafka had lost, published again")
        self.looks = counter("chat_recovery_looks", "Looks for such messages", ["outcome"])
        self.erased = counter("chat_sessions_erased", "Sessions whose user's data was erased")
        self.erasures_open = gauge("chat_erasures_open", "Users whose data is being erased, as PostgreSQL counts")
        self.rollup_drift = gauge(
            "chat_rollup_drift",
            "Counts by which rollups were wrong, found and repaired since the start; above 0 is a bug",
        )
        self.rollup_checks = counter("chat_rollup_checks", "Hours of rollups compared with sessions")

    def count(
        self, transitions: Iterable[Transition], traceparent_of: Callable[[UUID], str | None] | None = None
    ) -> None:
        """Count what a committed transaction started and ended, of sessions with these traces, if any."""
        by_persona: dict[str, list[Transition]] = defaultdict(list)
        for transition in transitions:
            by_persona[self._personas.of(transition.session.persona_id)].append(transition)
        for persona, own in by_persona.items():
            self._count_persona(persona, own, traceparent_of)

    def _count_persona(
        self, persona: str, transitions: Sequence[Transition], traceparent_of: Callable[[UUID], str | None] | None
    ) -> None:
        ended = [t.session for t in transitions if t.session.status.ended and t.previous in _NOT_ENDED]
        # Once a batch for each label: finding a label's counter takes longer than counting.
        self.started.labels(persona).inc(sum(t.previous is None for t in transitions))
        for status, count in Counted(session.status for session in ended).items():
            self.ended.labels(persona, status).inc(count)
        for kind, count in Counted(s.failure_kind for s in ended if s.failure_kind is not None).items():
            self.failures.labels(persona, kind).inc(count)
        responses = self.response_seconds.labels(persona)
        for session in ended:
            if session.response_ms is not None:
                seconds = session.response_ms / 1000
                trace = traceparent_of(session.session_id) if traceparent_of else None
                responses.observe(seconds, self._exemplars.of(trace, seconds))


class SweeperMetrics:
    """What the process counts that asks for sweeps."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.requested = counter("chat_sweeps_requested", "Sweeps put into Kafka")
        self.interval = gauge("chat_sweep_interval_seconds", "Time between two sweeps that are due, as set")
