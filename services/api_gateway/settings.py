"""What the gateway reads from its environment."""

import ipaddress
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.runtime.egress import EgressRules
from services.runtime.settings import KafkaSettings, OpsSettings, PersonaSettings, PostgresSettings


class GatewaySettings(KafkaSettings, PostgresSettings, PersonaSettings, OpsSettings):
    """Settings of the gateway; exactly one of JWT_SECRET and JWT_JWKS_URL is needed."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    gateway_host: str = Field("127.0.0.1", description="Address to listen on")
    gateway_port: int = Field(3000, ge=0, le=65_535, description="Port to listen on")
    jwt_secret: SecretStr | None = Field(None, description="HS256 secret of the tokens, at least 32 bytes")
    jwt_jwks_url: str | None = Field(
        None, pattern=r"^https?://", max_length=2048, description="Where the public keys of the tokens are (JWKS)"
    )
    jwt_issuer: str | None = Field(None, max_length=2048, description="The `iss` that tokens must carry")
    jwt_audience: str | None = Field(None, max_length=2048, description="The `aud` that tokens must carry")
    enable_chat_sessions: bool = Field(
        True, description="Serve the session endpoints; messages are sent and tracked either way"
    )
    rate_limit_messages: int = Field(
        120, ge=0, le=1_000_000_000, description="Messages per user and minute; 0 is no limit"
    )
    rate_limit_persona: int = Field(
        0, ge=0, le=1_000_000_000, description="Messages per user, persona and minute; 0 is no limit"
    )
    rate_limit_reads: int = Field(
        1200, ge=0, le=1_000_000_000, description="All other requests per user and minute; 0 is no limit"
    )
    trusted_proxies: str = Field(
        "", description="Networks, in CIDR notation and separated by commas, whose X-Forwarded-For is believed"
    )

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < 32:
            raise ValueError("it needs at least 32 bytes")
        return secret

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, cidrs: str) -> str:
        EgressRules.parse(cidrs.split(","))
        return cidrs

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        if (self.jwt_secret is None) == (self.jwt_jwks_url is None):
            raise ValueError("set exactly one of JWT_SECRET and JWT_JWKS_URL")
        return self

    @property
    def proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks whose X-Forwarded-For is believed."""
        return EgressRules.parse(self.trusted_proxies.split(",")).allowed
