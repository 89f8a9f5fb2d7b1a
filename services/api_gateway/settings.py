"""What the gateway reads from its environment."""

import ipaddress
import re
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.runtime.egress import EgressRules
from services.runtime.settings import (
    KafkaSettings,
    OpsSettings,
    PersonaSettings,
    PostgresSettings,
    PseudonymSettings,
)


class GatewaySettings(KafkaSettings, PostgresSettings, PersonaSettings, PseudonymSettings, OpsSettings):
    """Settings of the gateway; exactly one of JWT_SECRET and JWT_JWKS_URL is needed."""

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
    rate_limit_storage: SecretStr | None = Field(
        None, description="Redis or Valkey, as URL, in which several gateways count together"
    )
    gateway_max_requests: int = Field(
        256, ge=0, le=100_000, description="Requests worked on at the same time; more are refused, 0 is no limit"
    )
    gateway_max_waits: int = Field(
        1000, ge=1, le=100_000, description="Requests that wait at the same time; more are answered as if time were up"
    )
    gateway_max_streams: int = Field(
        2000, ge=0, le=100_000, description="Streams of events open at the same time; more are refused"
    )
    gateway_max_streams_per_user: int = Field(
        20, ge=0, le=100_000, description="Of them, those of one user; 0 is no limit"
    )
    cors_origins: str = Field(
        "",
        pattern=r"^(https?://[^\s/,]+(,https?://[^\s/,]+)*)?$",
        max_length=4096,
        description="Origins, separated by commas, whose pages may call from browsers",
    )
    hsts_seconds: int = Field(
        0,
        ge=0,
        le=63_072_000,
        description="Strict-Transport-Security of every answer, where TLS ends before the gateway",
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

    @field_validator("rate_limit_storage")
    @classmethod
    def _redis_or_valkey(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"(rediss?|valkeys?)://[^\s/]+", url.get_secret_value()):
            raise ValueError("it must be a URL that begins with redis://, rediss://, valkey:// or valkeys://")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, cidrs: str) -> str:
        EgressRules.parse(cidrs.split(","))
        return cidrs

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        if (self.jwt_secret is None) == (self.jwt_jwks_url is None):
            raise ValueError("set exactly one of JWT_SECRET and JWT_JWKS_URL")
        # An identity provider's keys sign tokens for everybody: without these, any of them would open this door.
        if self.jwt_jwks_url is not None and (self.jwt_issuer is None or self.jwt_audience is None):
            raise ValueError(
                "JWT_JWKS_URL needs JWT_ISSUER and JWT_AUDIENCE, which tell whose tokens are meant for here"
            )
        return self

    @property
    def proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks whose X-Forwarded-For is believed."""
        return EgressRules.parse(self.trusted_proxies.split(",")).allowed
