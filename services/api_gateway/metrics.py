"""The gateway's metrics, each declared once."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime.exemplars import Exemplars

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class GatewayMetrics:
    """Declared on the registry that the process exposes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, buckets=LATENCY_BUCKETS, registry=registry)
        self.requests = counter("chat_http_requests", "Requests answered", ["route", "method", "status"])
        self.request_seconds = histogram(
            "chat_http_request_seconds",
            "Time to answer a request, waits included; of streams of events, to begin to",
            ["route", "method"],
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._exemplars = Exemplars()
        self.messages = counter("chat_messages_accepted", "Messages accepted and acknowledged")
        self.publish_seconds = histogram("chat_publish_seconds", "Time until Kafka acknowledged an event")
        self.not_acknowledged = counter(
            "chat_publish_not_acknowledged", "Events that Kafka did not acknowledge in time"
        )
        self.shared_counts_up = gauge(
            "chat_rate_limit_storage_up",
            "Whether RATE_LIMIT_STORAGE, if it is set, answers; 0 = each gateway counts for itself",
        )
        self.signing_keys_up = gauge(
            "chat_signing_keys_up",
            "Whether JWT_JWKS_URL, if it is set, brought keys when it was last fetched; 0 = the keys before serve on",
        )
        self.signing_keys_up.set(1)
        self.requests_in_hand = gauge("chat_http_requests_in_hand", "Requests being worked on")
        self.shed = counter("chat_http_requests_shed", "Requests refused because of overload")
        self.waiters = gauge("chat_waiters", "Requests waiting for a session to change")
        self.exports = gauge("chat_exports", "Exports under way")
        self.live_streams = gauge("chat_live_streams", "Streams of events open")
        self.live_streams_ended = counter("chat_live_streams_ended", "Streams that ended, by what ended them", ["why"])
        self.live_events = counter("chat_live_events", "Events sent to streams")
        self._live_delay = histogram(
            "chat_live_delay_seconds", "From the publishing of what streams are told to its telling"
        )

    def answered(self, route: str, method: str, status: int, seconds: float, traceparent: str | None = None) -> None:
        """Count a request of that trace that was answered, by its route's template."""
        labels = route, method, status
        if labels not in self._answered:
            counted, timed = (
                self.requests.labels(route, method, str(status)),
                self.request_seconds.labels(route, method),
            )
            self._answered[labels] = counted, timed
        counted, timed = self._answered[labels]
        counted.inc()
        timed.observe(seconds, self._exemplars.of(traceparent, seconds))

    def told_live(self, published_at: float) -> None:
        """Observe that streams are told now what was published then, in Unix seconds by another machine's clock."""
        self._live_delay.observe(max(0.0, time.time() - published_at))
