"""What the dispatcher reads from the environment."""

from pydantic import Field

from services.runtime.settings import KafkaSettings, OpsSettings, PersonaSettings, PostgresSettings, TimeoutSettings
from services.webhook_dispatcher.window import Bounds


class DispatcherSettings(KafkaSettings, PostgresSettings, PersonaSettings, TimeoutSettings, OpsSettings):
    """Every setting of the dispatcher's process."""

    dispatcher_max_calls: int = Field(400, ge=1, le=10_000, description="Webhook calls that run at the same time")
    dispatcher_held_messages: int = Field(
        2_000, ge=2, le=100_000, description="Messages of a partition taken but not finished, before it is paused"
    )
    dispatcher_held_bytes: int = Field(
        16 * 1024 * 1024, ge=1, le=2**32, description="Bytes of those messages, before it is paused"
    )
    dispatcher_held_span: int = Field(
        20_000,
        ge=2,
        le=1_000_000,
        description="Offsets from the first of those messages to the last record taken, before it is paused",
    )
    dispatcher_drain_seconds: float = Field(
        60, ge=0, le=600, description="How long running calls may take to end when a rebalance takes partitions away"
    )
    dispatcher_stop_seconds: float = Field(
        10, ge=0, le=600, description="How long running calls may take to end when the process stops"
    )
    ops_host: str = Field("127.0.0.1", description="Where health and metrics are served")
    ops_port: int = Field(9101, ge=0, le=65_535, description="Port of health and metrics; 0 = any that is free")

    @property
    def held_bounds(self) -> Bounds:
        """How much of a partition may be held."""
        return Bounds(self.dispatcher_held_messages, self.dispatcher_held_bytes, self.dispatcher_held_span)

    @property
    def rebalance_drain_seconds(self) -> float:
        """The drain limit, kept below the rebalance's own: whoever drains longer is evicted from the group."""
        return min(self.dispatcher_drain_seconds, 0.9 * self.kafka_rebalance_timeout_ms / 1000)
