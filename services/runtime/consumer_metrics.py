"""Metrics of a consumer group member, the same in every consuming process."""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConsumerMetrics:
    """Declared once a process; `group` tells its consumers apart."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._lagging: dict[str, set[tuple[str, int]]] = {}
        self._lag = gauge(
            "chat_consumer_lag_records",
            "Records of a partition that this process has not finished yet",
            ["group", "topic", "partition"],
        )
        self._lag_seconds = gauge(
            "chat_consumer_lag_seconds",
            "Age of the oldest record of a partition that this process has not finished yet; 0 = none is left",
            ["group", "topic", "partition"],
        )
        self.last_poll_age = gauge(
            "chat_consumer_last_poll_age_seconds", "Seconds since Kafka last answered this consumer", ["group"]
        )
        self.retried_batches = counter(
            "chat_consumer_retried_batches", "Batches read again because of a passing fault", ["group"]
        )
        self.failed_commits = counter(
            "chat_consumer_failed_commits", "Offset commits that Kafka did not take", ["group"]
        )
        self.dead_letters = counter(
            "chat_dead_letters", "Records put into a dead-letter topic", ["group", "topic", "reason"]
        )
        self.misplaced = counter(
            "chat_misplaced_records",
            "Records found on another partition than their key's: a publisher partitions differently",
            ["group", "topic"],
        )

    def show_lag(self, group_id: str, lag: Mapping[tuple[str, int], tuple[int, float]]) -> None:
        """Show the lag, in records and seconds, of these partitions, by topic and number.

        Of no others: those are another process's.
        """
        for topic, partition in self._lagging.get(group_id, set()) - lag.keys():
            self._lag.remove(group_id, topic, str(partition))
            self._lag_seconds.remove(group_id, topic, str(partition))
        for (topic, partition), (records, seconds) in lag.items():
            self._lag.labels(group_id, topic, str(partition)).set(records)
            self._lag_seconds.labels(group_id, topic, str(partition)).set(seconds)
        self._lagging[group_id] = set(lag)
