"""What the tracker and the sweep producer read from the environment."""

from pydantic import Field

from services.runtime.settings import KafkaSettings, OpsSettings, PostgresSettings


class TrackerSettings(KafkaSettings, PostgresSettings, OpsSettings):
    """Of `chat-sessions tracker`."""

    chat_session_timeout_hours: float = Field(
        24,
        gt=0,
        le=24 * 366,
        description="Hours without activity after which a sweep ends a session; older messages are not called",
    )
    tracker_batch_records: int = Field(1000, ge=1, le=10_000, description="Most records in one fold transaction")
    ops_host: str = Field("127.0.0.1", description="Address of health and metrics")
    ops_port: int = Field(9102, ge=0, le=65_535, description="Port of health and metrics")


class SweeperSettings(KafkaSettings, OpsSettings):
    """Of `chat-sessions sweeper`."""

    chat_session_cleanup_interval: float = Field(
        6, ge=0.0001, le=24 * 366, description="Hours between two timeout sweeps; fractions are fine"
    )
    ops_host: str = Field("127.0.0.1", description="Address of health and metrics")
    ops_port: int = Field(9103, ge=0, le=65_535, description="Port of health and metrics")
