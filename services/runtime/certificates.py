"""How long the certificates last that a process connects to Kafka with, as a metric."""

import math
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge

from services.runtime.kafka_security import KafkaSecuritySettings


class CertificateMetrics:
    """Declared once a process. Tells of the files as they were at its start: what is renewed later is not in use."""

    def __init__(self, registry: CollectorRegistry, settings: KafkaSecuritySettings) -> None:
        ends = Gauge(
            "chat_certificate_ends_timestamp_seconds",
            "When a certificate ends that this process read at its start, by setting; of several authorities in "
            "KAFKA_SSL_CAFILE, the last one",
            ["setting"],
            registry=registry,
        )
        if settings.kafka_ssl_certfile is not None:
            # The first one in the file is the client's own, those of authorities in between follow.
            ends.labels("KAFKA_SSL_CERTFILE").set(_ends(settings.kafka_ssl_certfile)[0])
        if settings.kafka_ssl_cafile is not None:
            ends.labels("KAFKA_SSL_CAFILE").set(max(_ends(settings.kafka_ssl_cafile), default=math.nan))


def _ends(file: Path) -> list[float]:
    """Return when each certificate of a file ends, in Unix seconds; the settings have checked that it can be read."""
    return [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(file.read_bytes())]
