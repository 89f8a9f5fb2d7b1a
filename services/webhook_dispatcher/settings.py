"""What the dispatcher reads from the environment."""

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, field_validator

from services.runtime.egress import EgressRules
from services.runtime.settings import KafkaSettings, OpsSettings, PostgresSettings


class DispatcherSettings(KafkaSettings, PostgresSettings, OpsSettings):
    """Every setting of the dispatcher's process."""

    chat_session_timeout_hours: float = Field(
        24,
        gt=0,
        le=24 * 366,
        description="Hours without activity after which a sweep ends a session; older messages are not called",
    )
    egress_allow_cidrs: str = Field(
        "", description="Networks beyond the public internet that webhooks may be on, CIDR, separated by commas"
    )
    persona_secrets_key: SecretStr | None = Field(
        None, description="Fernet key under which the gateway keeps the personas' credentials"
    )
    dispatcher_max_calls: int = Field(400, ge=1, le=10_000, description="Webhook calls that run at the same time")
    dispatcher_held_messages: int = Field(
        2_000, ge=2, le=100_000, description="Messages of a partition taken but not finished, before it is paused"
    )
    dispatcher_drain_seconds: float = Field(
        60, ge=0, le=600, description="How long running calls may take to end when a rebalance takes partitions away"
    )
    dispatcher_stop_seconds: float = Field(
        10, ge=0, le=600, description="How long running calls may take to end when the process stops"
    )
    ops_host: str = Field("127.0.0.1", description="Where health and metrics are served")
    ops_port: int = Field(9101, ge=0, le=65_535, description="Port of health and metrics; 0 = any that is free")

    @field_validator("egress_allow_cidrs")
    @classmethod
    def _readable_cidrs(cls, value: str) -> str:
        EgressRules.parse(value.split(","))
        return value

    @field_validator("persona_secrets_key")
    @classmethod
    def _fernet_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            try:
                Fernet(key.get_secret_value())
            except ValueError:
                raise ValueError("it must be a Fernet key: 32 bytes in URL-safe base64") from None
        return key

    @property
    def egress_rules(self) -> EgressRules:
        """Which addresses may be called."""
        return EgressRules.parse(self.egress_allow_cidrs.split(","))

    @property
    def secrets_key(self) -> Fernet | None:
        """What decrypts the personas' credentials."""
        return None if self.persona_secrets_key is None else Fernet(self.persona_secrets_key.get_secret_value())

    @property
    def rebalance_drain_seconds(self) -> float:
        """The drain limit, kept below the rebalance's own: whoever drains longer is evicted from the group."""
        return min(self.dispatcher_drain_seconds, 0.9 * self.kafka_rebalance_timeout_ms / 1000)
