"""Every metric of every process, as its declarations tell, and the list of them that `docs/metrics.md` keeps.

`python -m tests.metrics_list > docs/metrics.md` writes it anew.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.api_gateway.live.stream import End as StreamEnd
from services.api_gateway.metrics import GatewayMetrics
from services.contracts import FailureKind
from services.contracts.events import AttemptOutcome
from services.contracts.session import SessionStatus
from services.contracts.topics import DISPATCHER_GROUP, SWEEPS_GROUP, TOPICS, TRACKER_GROUP
from services.runtime.consumer_metrics import ConsumerMetrics
from services.runtime.exemplars import SLOW_SECONDS
from services.runtime.kafka_security import KafkaSecuritySettings
from services.runtime.persona_labels import MAX_PERSONAS, OTHER
from services.runtime.process import process_registry
from services.session_tracker.lost_messages import Look
from services.session_tracker.metrics import SweeperMetrics, TrackerMetrics
from services.webhook_dispatcher.metrics import NO_PERSONA, DispatcherMetrics, End

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"

PROCESSES: Mapping[str, tuple[Callable[[CollectorRegistry], object], ...]] = {
    "gateway": (GatewayMetrics,),
    "dispatcher": (DispatcherMetrics, ConsumerMetrics),
    "tracker": (TrackerMetrics, ConsumerMetrics),
    "sweeper": (SweeperMetrics,),
}
"""What each process declares beside what all do."""

SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
"""What the names of a metric's series end with, by its type."""

SCRAPED = frozenset({"job", "instance"})
"""Labels that Prometheus gives every series."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is declared."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str
    processes: tuple[str, ...]

    @property
    def series(self) -> dict[str, frozenset[str]]:
        """Its series with their labels, without those that Prometheus gives."""
        own = frozenset(self.labels)
        return {f"{self.name}{end}": own | {"le"} if end == "_bucket" else own for end in SERIES[self.type]}


def declared() -> list[Metric]:
    """Return every metric, by name."""
    found: dict[str, Metric] = {}
    for process, declarations in PROCESSES.items():
        registry = process_registry(KafkaSecuritySettings())
        for declare in declarations:
            declare(registry)
        for collector in registry._collector_to_names:
            metric = _metric(collector, process)
            known = found.get(metric.name)
            processes = (*known.processes, process) if known else (process,)
            found[metric.name] = Metric(metric.name, metric.type, metric.labels, metric.meaning, processes)
    return [found[name] for name in sorted(found)]


def series() -> dict[str, frozenset[str]]:
    """Return every series that some process has, and `up`, with their labels."""
    known = {name: labels | SCRAPED for metric in declared() for name, labels in metric.series.items()}
    return {"up": SCRAPED, **known}


def _metric(collector: object, process: str) -> Metric:
    # prometheus_client tells the labels of a metric that has no sample yet to nobody.
    name, kind, labels, meaning = (
        getattr(collector, f"_{part}") for part in ("name", "type", "labelnames", "documentation")
    )
    return Metric(name, kind, tuple(labels), meaning, (process,))


def _any_of(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


_KINDS = _any_of(kind.value for kind in FailureKind)
_GROUPS = (DISPATCHER_GROUP, TRACKER_GROUP, SWEEPS_GROUP)
LABELS: Mapping[str, str] = {
    "persona": f"the persona's id; the first {MAX_PERSONAS} that a process meets, further ones are `{OTHER}`; "
    f"in webhook calls `{NO_PERSONA}` for what names none that exists",
    "status": _any_of(status.value for status in SessionStatus if status is not SessionStatus.ACTIVE),
    "chat_http_requests.status": "the HTTP status, 100 to 599",
    "kind": _KINDS,
    "group": _any_of(_GROUPS),
    "topic": "topics of the group: " + _any_of(topic.name for topic in TOPICS),
    "partition": f"the partition's number, 0 to {max(topic.partitions for topic in TOPICS) - 1}; those of this process",
    "reason": "why the record is of no use: one of some twenty fixed words, as `chat-sessions dead-letters list` shows",
    "route": "the route's template, such as `/api/chat-sessions/{sessionId}`; `unknown` for all other paths",
    "method": "the HTTP method; `any` where the route is `unknown`",
    "logger": "the module that tells the fault, of this project or of a library: some dozen",
    "why": _any_of(StreamEnd),
    "end": _any_of(end.value for end in End),
    "fate": "`published`, `dropped`",
    "dry_run": "`true`, `false`",
    "setting": "`KAFKA_SSL_CERTFILE`, `KAFKA_SSL_CAFILE`; without the setting there is no series",
    "chat_webhook_attempts.outcome": f"`replied`, {_any_of(o.value for o in AttemptOutcome if o.value != 'failed')}, "
    f"or the failure kind: {_KINDS}",
    "chat_webhook_execution_stops.outcome": "`stopped`, `unknown`, `failed`, `overloaded`",
    "chat_events_folded.outcome": "`applied`, `late` (came after the session's end)",
    "chat_recovery_looks.outcome": _any_of(Look),
}
"""What each label may be, by its name, or by the metric's and its own where that differs."""


def meaning_of(metric: Metric, label: str) -> str:
    """Return what a label of this metric may be; raises KeyError where nobody has told."""
    own = f"{metric.name}.{label}"
    return LABELS[own] if own in LABELS else LABELS[label]


_HEAD = f"""# Metrics

Each process serves its own at `/metrics`: the gateway on its port, the others on `OPS_PORT`. This list is made of their
declarations: `python -m tests.metrics_list > docs/metrics.md`.

Counters end in `_total`; histograms have `_bucket`, `_sum` and `_count`. Where a trace is known, the buckets of
`chat_http_request_seconds`, `chat_webhook_seconds` and `chat_session_response_seconds` carry its id as an exemplar
(`trace_id`), for scrapers that ask for OpenMetrics: of everything that takes {SLOW_SECONDS} s or longer, and of what is
quicker once a second. No label grows without bound: a process tells {MAX_PERSONAS} personas apart.

## All of them

| metric | type | labels | of | meaning |
|---|---|---|---|---|
"""

_LABELS_HEAD = """
## Labels

| label | of | values |
|---|---|---|
"""


def text() -> str:
    """Return the document."""
    metrics = declared()
    return _HEAD + "".join(map(_row, metrics)) + _LABELS_HEAD + "".join(_label_rows(metrics))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    name = metric.name + ("_total" if metric.type == "counter" else "")
    return f"| `{name}` | {metric.type} | {labels} | {', '.join(metric.processes)} | {metric.meaning} |\n"


def _label_rows(metrics: list[Metric]) -> Iterator[str]:
    users: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        for label in metric.labels:
            users.setdefault((label, meaning_of(metric, label)), []).append(metric.name)
    for (label, values), names in sorted(users.items()):
        yield f"| `{label}` | {', '.join(f'`{name}`' for name in names)} | {values} |\n"


if __name__ == "__main__":
    sys.stdout.write(text())
