"""Metrics: the list of them is true, labels are bounded, exemplars lead to traces, and lag is an age."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from services.runtime.certificates import CertificateMetrics
from services.runtime.exemplars import SLOW_SECONDS, Exemplars
from services.runtime.kafka_security import KafkaSecuritySettings
from services.runtime.lag import Lags
from services.runtime.ops import ops_app
from services.runtime.persona_labels import MAX_PERSONAS, OTHER, PersonaGauge, PersonaLabels
from services.runtime.tracing import exemplar
from services.webhook_dispatcher.metrics import NO_PERSONA, DispatcherMetrics
from tests.certificates import Authority
from tests.metrics_list import DOCUMENT, declared, meaning_of, text

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_the_list_is_current() -> None:
    assert DOCUMENT.read_text() == text(), "Run `python -m tests.metrics_list > docs/metrics.md`."


def test_every_metric_says_what_it_means_and_what_its_labels_may_be() -> None:
    for metric in declared():
        assert metric.name.startswith("chat_")
        assert len(metric.meaning) > 10
        assert all(meaning_of(metric, label) for label in metric.labels)


def test_personas_beyond_the_bound_share_a_label_for_ever() -> None:
    labels = PersonaLabels()
    own = [labels.of(f"p{number}") for number in range(MAX_PERSONAS)]
    assert own == [f"p{number}" for number in range(MAX_PERSONAS)]
    assert labels.of("one-more") == OTHER
    assert labels.of("p0") == "p0"


def test_a_flood_of_personas_makes_no_flood_of_series() -> None:
    registry = CollectorRegistry()
    metrics = DispatcherMetrics(registry)
    for number in range(MAX_PERSONAS * 3):
        persona = f"p{number}"
        metrics.of_persona(persona).ended("replied", 0.1, TRACEPARENT)
        metrics.ended_uncalled(persona, "expired")
        metrics.retried(persona, "http-5xx")
        metrics.breaker.set(persona, 0)
        metrics.limit.set(persona, 10)
    metrics.ended_uncalled(NO_PERSONA, "unknown-persona")
    personas = {
        sample.labels["persona"]
        for family in registry.collect()
        for sample in family.samples
        if "persona" in sample.labels
    }
    assert len(personas) == MAX_PERSONAS + 2
    assert {OTHER, NO_PERSONA} <= personas
    others = {"persona": OTHER, "outcome": "replied"}
    assert registry.get_sample_value("chat_webhook_attempts_total", others) == MAX_PERSONAS * 2


def test_personas_that_share_a_label_show_the_worst() -> None:
    registry = CollectorRegistry()
    labels = PersonaLabels()
    for number in range(MAX_PERSONAS):
        labels.of(f"p{number}")
    gauge = PersonaGauge(Gauge("g", "A gauge", ["persona"], registry=registry), labels, max)

    def shown(persona: str) -> float | None:
        return registry.get_sample_value("g", {"persona": persona})

    gauge.set("a", 2)
    gauge.set("b", 0)
    assert shown(OTHER) == 2
    gauge.set("a", 0)
    gauge.set("p0", 1)
    assert (shown(OTHER), shown("p0")) == (0, 1)


async def test_exemplars_are_told_to_who_asks_for_openmetrics() -> None:
    registry = CollectorRegistry()
    DispatcherMetrics(registry).of_persona("p1").ended("replied", 0.07, TRACEPARENT)
    asked = {"accept": "application/openmetrics-text; version=1.0.0"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ops_app({}, registry)), base_url="http://ops") as client:
        told, plain = await client.get("/metrics", headers=asked), await client.get("/metrics")
    (bucket,) = [line for line in told.text.splitlines() if "chat_webhook_seconds_bucket" in line and TRACE in line]
    assert 'le="0.1"' in bucket
    assert TRACE not in plain.text


def test_every_slow_observation_leads_to_its_trace_and_of_quick_ones_one_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    exemplars = Exemplars()

    def leads(seconds: float, after: float) -> bool:
        clock[0] += after
        return exemplars.of(TRACEPARENT, seconds) is not None

    assert [leads(seconds, after) for seconds, after in [(0.1, 0), (0.1, 0.5), (SLOW_SECONDS, 0), (9, 0)]] == [
        True, False, True, True,
    ]  # fmt: skip
    assert [leads(0.1, after) for after in (0.4, 0.2, 0.9, 0.1)] == [False, True, False, True]


@pytest.mark.parametrize("traceparent", [None, "", "x", f"00-{'0' * 32}-00f067aa0ba902b7-01", TRACEPARENT + "-more"])
def test_what_is_no_trace_makes_no_exemplar(traceparent: str | None) -> None:
    assert exemplar(traceparent) is None
    registry = CollectorRegistry()
    DispatcherMetrics(registry).of_persona("p1").ended("replied", 0.07, traceparent or "")
    assert b"trace_id" not in generate_latest(registry)


PARTITION = TopicPartition("t", 0)


def records(first: int, count: int, at: float) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    return [
        ConsumerRecord("t", 0, offset, int(at * 1000), 0, None, b"", None, 0, 0, [])
        for offset in range(first, first + count)
    ]


def lag_of(lags: Lags, reached: int | None, end: int, now: float) -> tuple[int, float]:
    return lags.measure({} if reached is None else {PARTITION: reached}, {PARTITION: end}, now)["t", 0]


def test_lag_is_the_age_of_the_oldest_record_that_is_not_finished() -> None:
    lags = Lags()
    lags.begin([PARTITION], 1000)
    lags.read(records(10, 5, at=900))
    lags.read(records(15, 5, at=950))
    assert lag_of(lags, None, 20, 1001) == (10, 101)  # nothing of it is done, and nothing was committed
    assert lag_of(lags, 12, 20, 1002) == (8, 102)
    lags.read(records(12, 3, at=900))  # read again after a fault
    assert lag_of(lags, 15, 20, 1003) == (5, 53)
    assert lag_of(lags, 20, 20, 1004) == (0, 0)


def test_the_age_of_what_was_not_read_yet_counts_from_when_nothing_was_left() -> None:
    lags = Lags()
    lags.begin([PARTITION], 1000)
    lags.read(records(0, 1, at=1000))
    assert lag_of(lags, 1, 1, 5000) == (0, 0)
    assert lag_of(lags, 1, 3, 5007) == (2, 7)
    lags.begin([PARTITION], 6000)
    assert lags.measure({}, {PARTITION: 3}, 6001) == {}  # what the group has committed is not known here
    assert lag_of(lags, 1, 3, 6002) == (2, 2)


def test_certificates_tell_when_they_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.sign("client", lasts=timedelta(days=3))
    certificate.write_bytes(certificate.read_bytes() + authority.certificate.read_bytes())
    registry = CollectorRegistry()
    settings = KafkaSecuritySettings(
        kafka_security_protocol="SSL",
        kafka_ssl_cafile=authority.certificate,
        kafka_ssl_certfile=certificate,
        kafka_ssl_keyfile=key,
    )
    CertificateMetrics(registry, settings)

    def left(setting: str) -> timedelta:
        ends = registry.get_sample_value("chat_certificate_ends_timestamp_seconds", {"setting": setting})
        return datetime.fromtimestamp(ends or 0, UTC) - datetime.now(UTC)

    assert timedelta(days=2, hours=23) < left("KAFKA_SSL_CERTFILE") <= timedelta(days=3)
    assert timedelta(minutes=58) < left("KAFKA_SSL_CAFILE") <= timedelta(hours=1)


def test_without_certificates_there_is_nothing_to_tell() -> None:
    registry = CollectorRegistry()
    CertificateMetrics(registry, KafkaSecuritySettings())
    assert [family.samples for family in registry.collect()] == [[]]
