"""How a process of this system starts: the same for all of them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry

from services.runtime.certificates import CertificateMetrics
from services.runtime.kafka_security import KafkaSecuritySettings
from services.runtime.log_metrics import LogMetrics
from services.runtime.logs import configure_logs
from services.runtime.settings import OpsSettings, load
from services.runtime.shown_settings import log_settings
from services.runtime.shutdown import Shutdown, run

S = TypeVar("S", bound=OpsSettings)


def run_process(name: str, settings: type[S], serve: Callable[[S, Shutdown], Awaitable[None]]) -> int:
    """Run `serve` with the environment's settings until it returns, logging as `name`; return the exit code.

    Wrong settings stop it with exit code 2, as `load` does.
    """
    loaded = load(settings)
    configure_logs(loaded.log_level, loaded.log_format, process=name)
    log_settings(loaded)
    return run(partial(serve, loaded), stop_limit_seconds=loaded.stop_limit_seconds)


def process_registry(settings: KafkaSecuritySettings) -> CollectorRegistry:
    """Return a registry with what every process tells of itself: lines left out of its log, and its certificates."""
    registry = CollectorRegistry()
    LogMetrics(registry)
    CertificateMetrics(registry, settings)
    return registry
