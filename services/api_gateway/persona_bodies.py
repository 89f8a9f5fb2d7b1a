"""A persona as an admin sets it: what each field may be, and what a person is told of one that may not."""

import re
from typing import Annotated, Literal, Self

import jwt
from pydantic import Field, SecretStr, field_validator, model_validator

from services.api_gateway.bodies import Body, Whole
from services.contracts.events import Hours, Metadata
from services.contracts.policy import CallSeconds, DeadlineSeconds, MostAttempts
from services.runtime.signing import read_key

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e]*")
_WEBHOOK = re.compile(r"([a-z]+://[^?#]+?)/webhook(?:-test)?/")
_OURS = {
    "host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "traceparent",
    "webhook-id", "webhook-timestamp", "webhook-signature", "idempotency-key", "callback-url",
}  # fmt: skip


class BasicAuth(Body):
    """User name and password (RFC 7617)."""

    type: Literal["basic"]
    username: str = Field(max_length=256, pattern=r"^[^:\x00-\x1f\x7f]*$")
    password: SecretStr = Field(max_length=1024)


class HeaderAuth(Body):
    """A header that the webhook asks for."""

    type: Literal["header"]
    name: str = Field(max_length=128)
    value: SecretStr = Field(min_length=1, max_length=4096)

    @field_validator("name")
    @classmethod
    def _sendable_name(cls, name: str) -> str:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS:
            raise ValueError("it must be the name of a header that this system does not set itself")
        return name

    @field_validator("value")
    @classmethod
    def _sendable_value(cls, value: SecretStr) -> SecretStr:
        if not _HEADER_TEXT.fullmatch(value.get_secret_value()):
            raise ValueError("it must be printable ASCII on one line")
        return value


class JwtAuth(Body):
    """A JSON Web Token made for each call (n8n: JWT Auth, key type passphrase): five minutes, with the body's hash."""

    type: Literal["jwt"]
    secret: SecretStr = Field(max_length=1024, description="At least as many bytes as the algorithm's hash: 32, 48, 64")
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"

    @model_validator(mode="after")
    def _usable_secret(self) -> Self:
        try:
            strict = jwt.PyJWT(options={"enforce_minimum_key_length": True})
            strict.encode({}, self.secret.get_secret_value(), self.algorithm)
        except jwt.PyJWTError:
            raise ValueError(
                f"the secret must be a passphrase of at least {int(self.algorithm[2:]) // 8} bytes, and no PEM key"
            ) from None
        return self


Auth = BasicAuth | HeaderAuth | JwtAuth


class PersonaTestBody(Body):
    """A message to try a persona with."""

    message: str = Field("This is a test.", min_length=1, description="At most 32 KiB of UTF-8")
    metadata: Metadata = Field(
        default_factory=dict, description="At most 8 KiB; `test`: true and where the request came from are added"
    )


class PersonaBody(Body):
    """A persona as an admin sets it: all of it; what is left out takes its default, and credentials are removed."""

    webhook_url: str = Field(min_length=1, max_length=2048, description="http(s) URL of the n8n webhook")
    timeout_seconds: CallSeconds = Field(10, description="Of one call")
    max_attempts: Annotated[MostAttempts, Whole] = Field(3, description="Calls a message, at most")
    deadline_seconds: DeadlineSeconds = Field(60, description="For a message with all its attempts")
    first_byte_seconds: CallSeconds | None = Field(
        None,
        description="Of one call, from its connection until n8n begins to answer; none: timeoutSeconds alone counts",
    )
    idle_seconds: CallSeconds | None = Field(
        None, description="Of one call, between two pieces of its answer; none: timeoutSeconds alone counts"
    )
    idempotent: bool = Field(False, description="Whether the workflow may be called again after it has started")
    session_timeout_hours: Hours | None = Field(
        None, description="Without activity for so long its sessions time out; else CHAT_SESSION_TIMEOUT_HOURS"
    )
    callback_seconds: float | None = Field(
        None,
        gt=0,
        le=604_800,
        allow_inf_nan=False,
        description="The workflow only acknowledges, and posts its reply to `callbackUrl` within so long; null: it "
        "answers with its reply",
    )
    auth: Annotated[Auth, Field(discriminator="type")] | None = Field(
        None, description="Credentials for the webhook; never shown again"
    )
    signing_keys: list[SecretStr] = Field(
        default_factory=list,
        max_length=4,
        description="Standard Webhooks keys, `whsec_` and base64: each call carries a signature by each, so that "
        "its receiver can change keys; never shown again",
    )
    n8n_api_key: SecretStr | None = Field(
        None,
        alias="n8nApiKey",
        min_length=1,
        max_length=4096,
        description="Key of n8n's API with the scope execution:stop: cancelling a session then stops its execution, "
        "where the workflow names it; never shown again",
    )
    n8n_api_url: str | None = Field(
        None,
        alias="n8nApiUrl",
        min_length=1,
        max_length=2048,
        description="Of n8n's API, for the key; default: that of the webhook's n8n",
    )

    @field_validator("signing_keys")
    @classmethod
    def _usable_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        for key in keys:
            read_key(key.get_secret_value())
        return keys

    @field_validator("n8n_api_key")
    @classmethod
    def _sendable_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _HEADER_TEXT.fullmatch(key.get_secret_value()):
            raise ValueError("it must be printable ASCII on one line")
        return key

    @property
    def api_url(self) -> str | None:
        """Where n8n's API is; None without a key for it, and where neither address says."""
        if self.n8n_api_key is None:
            return None
        beside = _WEBHOOK.match(self.webhook_url)
        return self.n8n_api_url or (f"{beside[1]}/api/v1" if beside else None)
