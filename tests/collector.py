"""An OpenTelemetry collector that only listens, and what it heard, as trees.

`python -m tests.collector PORT` runs it by itself, and counts.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Step:
    """One span."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    failed: bool
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span of each."""

    @property
    def shown(self) -> str:
        told = {
            "send": ("chat.session.id",),
            "deliver": ("chat.persona.id",),
            "POST": ("chat.attempt", "http.response.status_code"),
            "fold": ("messaging.batch.message_count",),
        }.get(self.name.split(" ")[0], ("http.response.status_code",))
        more = " ".join(f"{name}={self.attributes[name]}" for name in told if name in self.attributes)
        failed = f" error.type={self.attributes.get('error.type')}" if self.failed else ""
        return (
            f"{self.service.removeprefix('chat-sessions-')}: {self.name} [{self.kind.lower()}] {more}{failed}".rstrip()
        )


class Collector:
    """What was exported so far."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._steps: list[Step] = []
        self._lock = threading.Lock()

    @property
    def steps(self) -> list[Step]:
        with self._lock:
            return [*self._steps]

    def take(self, body: bytes) -> None:
        steps = [*_steps(ExportTraceServiceRequest.FromString(body))]
        with self._lock:
            self._steps.extend(steps)


@contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    """Listen on this machine until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
    heard = Collector(server.server_address[1])
    server.RequestHandlerClass = _handler(heard.take)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tree(steps: Iterable[Step], trace_id: str) -> str:
    """Return a trace as an indented tree; traces that only link to one of its steps stand below it, after a `~`."""
    everything = sorted(steps, key=lambda step: step.began)
    own = [step for step in everything if step.trace_id == trace_id]
    first = min(step.began for step in own)
    known = {step.span_id for step in own}
    lines: list[str] = []

    def show(step: Step, depth: int, mark: str = "") -> None:
        at, took = (step.began - first) / 1e6, (step.ended - step.began) / 1e6
        lines.append(f"{at:8.1f} ms {took:8.1f} ms  {'  ' * depth}{mark}{step.shown}")
        for child in everything:
            if child.trace_id == step.trace_id and child.parent_id == step.span_id:
                show(child, depth + 1)
        for other in everything:
            if mark == "" and (step.trace_id, step.span_id) in other.links:
                show(other, depth + 1, "~ ")

    for step in own:
        if step.parent_id not in known:
            show(step, 0)
    return "\n".join(lines)


def _handler(take: Callable[[bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler


def _steps(request: ExportTraceServiceRequest) -> Iterator[Step]:
    for resource in request.resource_spans:
        service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Step(
                    service,
                    span.name,
                    ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == Status.STATUS_CODE_ERROR,
                    {a.key: a.value.int_value or a.value.string_value for a in span.attributes},
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                )


def main() -> None:
    """Count until the process is told to stop; nothing is decoded, so that what is measured is not this."""
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _handler(lambda _: None))
    server.serve_forever()


if __name__ == "__main__":
    main()
