"""Whether traces are exported is decided here, once in a process."""

from services.runtime.settings import OpsSettings
from services.runtime.tracing import Tracer


def build_tracer(settings: OpsSettings, process: str) -> Tracer | None:
    """Return what exports the traces of this process; without a collector None, and nothing of OpenTelemetry loaded."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    from services.runtime.otlp import OtlpTracer  # noqa: PLC0415 - whoever exports nothing does not wait for it

    return OtlpTracer(settings.otel_exporter_otlp_endpoint, process)


async def close_tracer(tracer: Tracer | None) -> None:
    """Export what is left, for a few seconds at most."""
    if tracer is not None:
        await tracer.close()
