"""What the tracker and the sweep producer read from the environment."""

from pydantic import Field, field_validator

from services.contracts.topics import GROUP_TOPICS, TRACKER_GROUP
from services.runtime.settings import KafkaSettings, OpsSettings, PostgresSettings, PseudonymSettings, TimeoutSettings

PRODUCER_TIMEOUT_MS = 15_000
"""How long Kafka may take to acknowledge: a process that is to stop while Kafka is away waits no longer."""


class TrackerSettings(KafkaSettings, PostgresSettings, PseudonymSettings, TimeoutSettings, OpsSettings):
    """Of `chat-sessions tracker`."""

    chat_session_retention_days: int = Field(
        0, ge=0, le=36_600, description="Days after which whole months of sessions are dropped; 0 keeps them for ever"
    )
    chat_session_anonymize_days: int = Field(
        0,
        ge=0,
        le=36_600,
        description="Days after which IP address, user agent and device leave sessions' metadata; 0 keeps them",
    )
    audit_retention_days: int = Field(
        0, ge=0, le=36_600, description="Days after which whole months of the audit log are dropped; 0 keeps them"
    )
    chat_session_recovery_minutes: float = Field(
        5,
        ge=0,
        le=24 * 60,
        description="Minutes without activity after which a message that Kafka lost is sent again; 0 looks for none",
    )
    tracker_batch_records: int = Field(1000, ge=1, le=10_000, description="Most records in one fold transaction")
    ops_host: str = Field("127.0.0.1", description="Address of health and metrics")
    ops_port: int = Field(9102, ge=0, le=65_535, description="Port of health and metrics")

    @field_validator("chat_session_retention_days")
    @classmethod
    def _longer_than_topics(cls, days: int) -> int:
        kept = max(topic.retention for topic in GROUP_TOPICS[TRACKER_GROUP]).days
        if 0 < days < kept:
            raise ValueError(
                f"it must be 0, which keeps everything, or at least {kept}: Kafka keeps events for {kept} days, "
                "and one that is read again needs its session's month"
            )
        return days


class SweeperSettings(KafkaSettings, OpsSettings):
    """Of `chat-sessions sweeper`."""

    chat_session_cleanup_interval: float = Field(
        6, ge=0.0001, le=24 * 366, description="Hours between two timeout sweeps; fractions are fine"
    )
    ops_host: str = Field("127.0.0.1", description="Address of health and metrics")
    ops_port: int = Field(9103, ge=0, le=65_535, description="Port of health and metrics")
