"""How Kafka clients prove who they are, and know whom they speak to: TLS and SASL."""

import ssl
from typing import Any, Literal, Self

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512
from pydantic import Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_SASL_SETTINGS = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
_TLS_SETTINGS = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
_FASTSTREAM_SASL = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


class KafkaSecuritySettings(BaseSettings):
    """The client's side of TLS and SASL. Settings that contradict one another are refused."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Whether connections use TLS (`…SSL`) and a password (`SASL_…`)"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="How the password is proved; SCRAM never sends it"
    )
    kafka_sasl_username: str | None = Field(None, min_length=1, description="The user for SASL")
    kafka_sasl_password: SecretStr | None = Field(None, min_length=1, description="The user's password")
    kafka_ssl_cafile: FilePath | None = Field(
        None, description="PEM file of the authorities that may sign brokers' certificates; without it the system's"
    )
    kafka_ssl_certfile: FilePath | None = Field(
        None, description="PEM file of this client's own certificate, for brokers that ask for one"
    )
    kafka_ssl_keyfile: FilePath | None = Field(
        None, description="PEM file of the certificate's key, without passphrase, unless it is in the same file"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for names, wanted, offered in (
            (_SASL_SETTINGS, "SASL", "SASL_SSL"),
            (_TLS_SETTINGS, "SSL", "SSL or SASL_SSL"),
        ):
            told = [name.upper() for name in names if getattr(self, name) is not None]
            if told and wanted not in self.kafka_security_protocol.split("_"):
                raise ValueError(
                    f"{told[0]} means nothing while KAFKA_SECURITY_PROTOCOL is {self.kafka_security_protocol}: "
                    f"set that to {offered}, or remove {told[0]}"
                )
        missing = [name.upper() for name in _SASL_SETTINGS if getattr(self, name) is None]
        if missing and self.kafka_security_protocol.startswith("SASL_"):
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL {self.kafka_security_protocol} needs {' and '.join(missing)}")
        if self.kafka_ssl_keyfile is not None and self.kafka_ssl_certfile is None:
            raise ValueError("KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE")
        _ssl_context(self)
        return self


def client_security(settings: KafkaSecuritySettings) -> dict[str, Any]:
    """The keyword arguments that make any aiokafka client connect as the settings say."""
    arguments: dict[str, Any] = {
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": _ssl_context(settings),
    }
    if settings.kafka_sasl_mechanism is not None and settings.kafka_sasl_password is not None:
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_sasl_username
        arguments["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return arguments


def faststream_security(settings: KafkaSecuritySettings) -> BaseSecurity:
    """The same for a FastStream broker."""
    arguments = client_security(settings)
    context = arguments["ssl_context"]
    if "sasl_mechanism" not in arguments:
        return BaseSecurity(context)
    sasl = _FASTSTREAM_SASL[arguments["sasl_mechanism"]]
    return sasl(arguments["sasl_plain_username"], arguments["sasl_plain_password"], context)


def _ssl_context(settings: KafkaSecuritySettings) -> ssl.SSLContext | None:
    """What TLS connections are made with; None without TLS. Raises ValueError, naming the files that are no use."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"KAFKA_SSL_CAFILE cannot be used ({_reason(error)}): it must hold certificates, in PEM"
        ) from error
    if settings.kafka_ssl_certfile is None:
        return context
    try:
        # Without a passphrase here, OpenSSL would ask the terminal for one.
        context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile, password="")
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE cannot be used ({_reason(error)}): "
            "they must be a certificate and its own key, in PEM, without a passphrase"
        ) from error
    return context


def _reason(error: OSError) -> str:
    return (getattr(error, "reason", None) or error.strerror or type(error).__name__).lower().replace("_", " ")
