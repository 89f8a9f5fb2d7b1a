"""What the metrics of a process say is wrong with it, or soon will be. Pure; time is an argument."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.commands.checkup.findings import Figure, Finding, notice, well, wrong
from services.commands.diagnosis.causes import CAUSES
from services.commands.wording import duration, shown
from services.contracts.session import FailureKind

SOON = timedelta(days=14)
"""Before its end a certificate is to be renewed."""
SILENT_SECONDS = 30.0
_BREAKER, _CLOSED = "chat_webhook_breaker_state", 0.0
_ATTEMPTS, _KINDS = "chat_webhook_attempts", set(FailureKind)
_CERTIFICATE, _KEYS = "chat_certificate_ends_timestamp_seconds", "chat_signing_keys_up"
_HEARD = "chat_consumer_last_poll_age_seconds"


def measured(process: str, metrics: str, now: datetime) -> list[Finding]:
    """Return what is found in the text that `/metrics` of a process answers."""
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    return [
        *breakers(_samples(families, _BREAKER, "persona"), _failures(families)),
        *certificates(process, _samples(families, _CERTIFICATE, "setting"), now),
        *signing_keys(process, _samples(families, _KEYS, "")),
        *silence(process, _samples(families, _HEARD, "group")),
    ]


def _samples(families: Mapping[str, Metric], name: str, label: str) -> list[tuple[str, float]]:
    """Return a gauge's values, each with what it says in `label`."""
    samples = families[name].samples if name in families else ()
    return [(sample.labels.get(label, ""), sample.value) for sample in samples]


def _failures(families: Mapping[str, Metric]) -> dict[str, Counter[FailureKind]]:
    """Return how often the calls of each persona failed since the process started, by kind."""
    failures: dict[str, Counter[FailureKind]] = {}
    for sample in families[_ATTEMPTS].samples if _ATTEMPTS in families else ():
        if sample.name == f"{_ATTEMPTS}_total" and sample.labels.get("outcome") in _KINDS and sample.value:
            of = failures.setdefault(sample.labels.get("persona", ""), Counter())
            of[FailureKind(sample.labels["outcome"])] += int(sample.value)
    return failures


def breakers(states: Iterable[tuple[str, float]], failures: Mapping[str, Counter[FailureKind]]) -> Iterator[Finding]:
    """Yield a finding for each persona whose circuit breaker is not closed, with the failures of its calls."""
    for persona, state in states:
        if state != _CLOSED:
            kinds = failures.get(persona, Counter()).most_common(3)
            which = f" (since that dispatcher's start: {', '.join(f'{kind} {count}' for kind, count in kinds)})"
            step = CAUSES[kinds[0][0]][1] if kinds else "see to its n8n"
            yield notice(
                f"personas.{shown(persona, 128)}.breaker",
                f"a dispatcher holds its calls back, since too many in a row failed{which if kinds else ''}.",
                f"{step}; the breaker closes with the first call that gets through.",
            )


def certificates(process: str, ends: Iterable[tuple[str, float]], now: datetime) -> Iterator[Finding]:
    """Yield a finding for what the process goes to Kafka with, of the certificate that ends first, if it has any."""
    for end, setting in sorted((end, setting) for setting, end in ends)[:1]:
        check, left = f"certificates.{process}", end - now.timestamp()
        figures: dict[str, Figure] = {"setting": setting, "secondsLeft": left}
        step = "renew the file, then start the process anew: it reads it at its start."
        if left <= 0:
            told = f"the certificate of {setting} ended {duration(-left)} ago: Kafka cannot be reached with it."
            yield wrong(check, told, step, **figures)
        elif left < SOON.total_seconds():
            told = f"the certificate of {setting} ends in {duration(left)}, and Kafka cannot be reached with it then."
            yield notice(check, told, step, **figures)
        else:
            yield well(check, f"the first to end is that of {setting}, in {duration(left)}.", **figures)


def signing_keys(process: str, up: Iterable[tuple[str, float]]) -> Iterator[Finding]:
    """Yield a finding where a gateway could not fetch the keys that verify tokens."""
    for _, brought in up:
        if not brought:
            yield notice(
                f"signing-keys.{process}",
                "JWT_JWKS_URL brought it no keys when it was last asked: those from before serve on, if there are any.",
                "see to the identity provider and the way to it; start no gateway anew before.",
            )


def silence(process: str, ages: Iterable[tuple[str, float]]) -> Iterator[Finding]:
    """Yield a finding for each consumer group that has heard nothing from Kafka for long."""
    for group, age in ages:
        if age > SILENT_SECONDS:
            told = f"Kafka last answered its consumer of {group} {duration(age)} ago."
            step = "see the finding of kafka; if there is none, the network between the two."
            yield wrong(f"processes.{process}.kafka", told, step, group=group, lastAnswerSeconds=age)
