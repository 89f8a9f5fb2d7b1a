"""Metrics of a consumer group member, the same in every consuming process."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConsumerMetrics:
    """Declared once a process; `group` tells its consumers apart."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lag = Gauge(
            "chat_consumer_lag_records",
            "Records of a partition that this process has not finished yet",
            ["group", "topic", "partition"],
            registry=registry,
        )
        self.last_poll_age = Gauge(
            "chat_consumer_last_poll_age_seconds",
            "Seconds since Kafka last answered this consumer",
            ["group"],
            registry=registry,
        )
        self.retried_batches = Counter(
            "chat_consumer_retried_batches",
            "Batches read again because of a passing fault",
            ["group"],
            registry=registry,
        )
        self.failed_commits = Counter(
            "chat_consumer_failed_commits",
            "Offset commits that Kafka did not take",
            ["group"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "chat_dead_letters",
            "Records put into a dead-letter topic",
            ["group", "topic", "reason"],
            registry=registry,
        )
        self.misplaced = Counter(
            "chat_misplaced_records",
            "Records found on another partition than their key's: a publisher partitions differently",
            ["group", "topic"],
            registry=registry,
        )
