"""W3C trace context: a message keeps one trace from its POST to its fold. https://www.w3.org/TR/trace-context/

What is said here holds whether or not traces are exported: `services.runtime.otlp` records them, where a collector is
set, and nothing else knows how.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

Attributes = Mapping[str, str | int]


def _parsed(traceparent: str | None) -> re.Match[str] | None:
    """Return its trace, span and flags; None where none is given or it is invalid."""
    return _TRACEPARENT.fullmatch(traceparent) if traceparent else None


def continued(traceparent: str | None) -> str:
    """Return a traceparent with a new span of the given trace, of a new trace where none is given or it is invalid."""
    parent = _parsed(traceparent)
    if parent:
        return f"00-{parent.group(1)}-{_random(16)}-{parent.group(3)}"
    return f"00-{_random(32)}-{_random(16)}-01"


def _random(digits: int) -> str:
    # No secret; whoever gets all zeros has no trace, once in 2^64. Asking the system takes twenty times as long.
    return f"{random.getrandbits(4 * digits):0{digits}x}"


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the id of the trace, 32 hexadecimal digits; None where none is given or it is invalid."""
    parent = _parsed(traceparent)
    return None if parent is None else parent.group(1)


def exemplar(traceparent: str | None) -> dict[str, str] | None:
    """Return what leads from a bucket of a histogram to this trace; None where there is none."""
    trace_id = trace_id_of(traceparent)
    return None if trace_id is None else {"trace_id": trace_id}


def parts_of(traceparent: str | None) -> tuple[int, int, int] | None:
    """Return trace, span and flags as numbers; None where none is given or it is invalid."""
    parent = _parsed(traceparent)
    return None if parent is None else (int(parent.group(1), 16), int(parent.group(2), 16), int(parent.group(3), 16))


class Kind(Enum):
    """What part a step has in a call or in a message's way; the values are OpenTelemetry's names."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span(Protocol):
    """One step of a trace, until its end."""

    @property
    def traceparent(self) -> str:
        """What is handed on to those who continue the trace from here."""

    def rename(self, name: str) -> None:
        """Name the step by what has become known of it."""

    def note(self, attributes: Attributes) -> None:
        """Tell more of the step."""

    def fail(self, kind: str) -> None:
        """Tell that the step failed, by one of few words."""

    def end(self) -> None:
        """The step is over; once is enough."""


class Tracer(Protocol):
    """Records the steps of traces. Where no traces are exported there is None in its place."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[str] = (),
    ) -> Span:
        """Begin a step of the trace of the traceparent `parent`, or a trace; `links` are traceparents of others."""

    async def close(self) -> None:
        """Export what is left, for a few seconds at most."""


class Unrecorded:
    """A step that nobody records: it hands its trace on, and that is all."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def rename(self, name: str) -> None:
        """Tell nobody."""

    def note(self, attributes: Attributes) -> None:
        """Tell nobody."""

    def fail(self, kind: str) -> None:
        """Tell nobody."""

    def end(self) -> None:
        """Tell nobody."""


NOT_RECORDED = Unrecorded("")
"""In place of a step that belongs to no trace."""


@contextmanager
def ended_by_errors(span: Span) -> Iterator[None]:
    """End the step as failed where an error ends what runs within; else it goes on."""
    try:
        yield
    except BaseException as error:
        span.fail(type(error).__name__)
        span.end()
        raise
