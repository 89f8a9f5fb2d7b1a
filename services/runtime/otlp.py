"""Traces by OpenTelemetry's SDK, exported over OTLP. Loaded only where a collector is set."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from services.runtime.tracing import Attributes, Kind, Span, Unrecorded, continued, parts_of

PATH = "/v1/traces"
EXPORT_SECONDS = 5.0
"""For one request to the collector, with its repeats."""
CLOSE_SECONDS = 3.0
MOST_LINKS = 10_000
"""The SDK keeps 128 of a span, and a batch of the tracker has as many messages as TRACKER_BATCH_RECORDS allows."""
_SAMPLED = int(TraceFlags.SAMPLED)


class OtlpTracer:
    """Exports from a thread of its own. A collector that is slow or away costs spans, and holds nothing up.

    The SDK's other settings (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_…) are read by the SDK.
    """

    def __init__(self, endpoint: str, process: str) -> None:
        """Begin to export to the collector at `endpoint`, a base URL, as the service `chat-sessions-PROCESS`."""
        resource = Resource.create({"service.name": f"chat-sessions-{process}", "service.namespace": "chat-sessions"})
        self._provider = TracerProvider(
            resource=resource, span_limits=SpanLimits(max_links=MOST_LINKS), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + PATH, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("chat-sessions")
        # As it does unless OTEL_TRACES_SAMPLER says otherwise.
        self._follows_parents = isinstance(self._provider.sampler, ParentBased)

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[str] = (),
    ) -> Span:
        """Begin a step, as Tracer does. Links to traces that are not sampled lead nowhere, and are left out."""
        remote = _context_of(parent)
        if self._follows_parents and remote is not None and not remote.trace_flags:
            # In a third of the time that the SDK takes to decide the same.
            return Unrecorded(continued(parent))
        context = None if remote is None else set_span_in_context(NonRecordingSpan(remote))
        linked = [Link(other) for link in links if (other := _context_of(link)) is not None and other.trace_flags]
        return RecordedSpan(
            self._tracer.start_span(name, context, SpanKind[kind.value], attributes, linked, record_exception=False)
        )

    async def close(self) -> None:
        """Export what is left, for 3 s at most."""
        # A daemon's thread: what waits for a collector that hangs does not hold the process.
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=self._close, args=(loop, done), daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), CLOSE_SECONDS)

    def _close(self, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        self._provider.shutdown()
        with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(done.set)


class RecordedSpan:
    """A step that is exported once it has ended."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def rename(self, name: str) -> None:
        """Name the step by what has become known of it."""
        self._span.update_name(name)

    def note(self, attributes: Attributes) -> None:
        """Tell more of the step."""
        self._span.set_attributes(attributes)

    def fail(self, kind: str) -> None:
        """Tell that the step failed."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """The step is over."""
        if self._span.is_recording():
            self._span.end()


def _context_of(traceparent: str | None) -> SpanContext | None:
    parts = parts_of(traceparent)
    if parts is None:
        return None
    trace_id, span_id, flags = parts
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & _SAMPLED))
