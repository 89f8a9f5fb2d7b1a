"""Why Kafka cannot be reached: the one sentence that its clients keep to their logs."""

import ssl

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
from aiokafka.protocol.metadata import MetadataRequest

from services.runtime.kafka_security import client_security
from services.runtime.settings import KafkaSettings

_TIMEOUT_MS = 5_000


async def why_unreachable(settings: KafkaSettings) -> str:
    """Try each address of `settings` once, and say in a sentence what stands in the way of the last that failed.

    Names the settings to look at, never a password. Takes at most 10 s an address.
    """
    told = f"Kafka at {settings.kafka_bootstrap_servers} was out of reach a moment ago and answers now: try again."
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers, randomize=False):
        try:
            await _ask(host, port, settings)
        except (KafkaError, OSError, TimeoutError) as error:
            told = f"Kafka at {host}:{port} {_obstacle(error, settings)}."
    return told


async def _ask(host: str, port: int, settings: KafkaSettings) -> None:
    """Connect, prove who we are, and have one request answered: a broker refuses at any of these steps."""
    connection = await create_conn(host, port, request_timeout_ms=_TIMEOUT_MS, **client_security(settings))
    try:
        await connection.send(MetadataRequest([]))
    finally:
        connection.close()


def _obstacle(error: BaseException, settings: KafkaSettings) -> str:
    if isinstance(error, KafkaConnectionError) and isinstance(error.__cause__, ssl.SSLError):
        # With TLS 1.3 a broker refuses our certificate only after we think that we are connected.
        error = error.__cause__
    protocol = settings.kafka_security_protocol
    match error:
        case SaslAuthenticationFailed():
            told = (
                f"refused the user {settings.kafka_sasl_username}: "
                "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM"
            )
        case UnsupportedSaslMechanismError():
            told = f"does not take {settings.kafka_sasl_mechanism}: check KAFKA_SASL_MECHANISM"
        case ssl.SSLCertVerificationError(verify_message=message):
            told = f"has a certificate that is not trusted ({message}): check KAFKA_SSL_CAFILE and the broker's name"
        case ssl.SSLError(reason=reason):
            told = (
                f"ended TLS ({reason}): check that KAFKA_SECURITY_PROTOCOL ({protocol}) is what it wants, "
                "and if it asks for a certificate, that KAFKA_SSL_CERTFILE is one that it trusts"
            )
        case KafkaConnectionError() | ConnectionResetError() | ConnectionAbortedError():
            told = (
                "closed the connection: check that it is a broker, "
                f"and that KAFKA_SECURITY_PROTOCOL ({protocol}) is what it wants"
            )
        case TimeoutError():
            told = f"did not answer within {_TIMEOUT_MS // 1000} s: check KAFKA_BOOTSTRAP_SERVERS and the network"
        case _:
            told = f"is out of reach ({error}): check KAFKA_BOOTSTRAP_SERVERS"
    return told
