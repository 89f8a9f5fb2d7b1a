"""One trace from POST to webhook."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.local.processes import free_port
from services.runtime import otlp
from services.runtime.tracing import Kind, Unrecorded, continued, ended_by_errors, parts_of, trace_id_of

ROOT = Path(__file__).parents[2]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_trace_is_continued_with_a_span_of_its_own(flags: str) -> None:
    version, trace, span, kept = continued(f"00-{TRACE}-{SPAN}-{flags}").split("-")
    assert (version, trace, kept) == ("00", TRACE, flags)
    assert span != SPAN


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_without_a_valid_trace_a_new_one_begins(parent: str | None) -> None:
    begun = continued(parent)
    assert begun.split("-")[1] != TRACE
    assert (trace_id_of(parent), parts_of(parent)) == (None, None)
    assert continued(begun).split("-")[1] == begun.split("-")[1]


@given(st.text(max_size=60))
def test_what_is_returned_is_always_a_traceparent(parent: str) -> None:
    version, trace, span, flags = continued(parent).split("-")
    assert (version, len(trace), len(span), len(flags)) == ("00", 32, 16, 2)
    assert int(trace, 16)
    assert int(span, 16)


def test_a_trace_is_read_from_its_header() -> None:
    given = f"00-{TRACE}-{SPAN}-01"
    assert trace_id_of(given) == trace_id_of(continued(given)) == TRACE
    assert parts_of(given) == (int(TRACE, 16), int(SPAN, 16), 1)


def test_without_a_collector_nothing_that_exports_is_loaded() -> None:
    program = """
import sys
from services.api_gateway import app
from services.runtime.settings import OpsSettings
from services.runtime.tracer import build_tracer
from services.session_tracker import app
from services.webhook_dispatcher import app
assert build_tracer(OpsSettings(), "gateway") is None
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.1)
    tracer = otlp.OtlpTracer(f"http://127.0.0.1:{free_port()}", "gateway")
    given = f"00-{TRACE}-{SPAN}-01"
    span = tracer.begin("step", Kind.SERVER, given, {}, ["nonsense"])
    assert trace_id_of(span.traceparent) == TRACE
    span.end()
    span.end()
    async with asyncio.timeout(2):
        await tracer.close()


async def test_what_the_caller_does_not_sample_is_not_recorded() -> None:
    tracer = otlp.OtlpTracer(f"http://127.0.0.1:{free_port()}", "gateway")
    span = tracer.begin("step", Kind.SERVER, f"00-{TRACE}-{SPAN}-00", {})
    assert isinstance(span, Unrecorded)
    assert span.traceparent.startswith(f"00-{TRACE}-")
    assert span.traceparent.endswith("-00")
    assert SPAN not in span.traceparent
    await tracer.close()


def test_an_error_ends_a_step_as_failed() -> None:
    told: list[str] = []

    class Step(Unrecorded):
        def fail(self, kind: str) -> None:
            told.append(kind)

        def end(self) -> None:
            told.append("end")

    with ended_by_errors(Step("")):
        pass
    assert told == []
    with pytest.raises(ZeroDivisionError), ended_by_errors(Step("")):
        raise ZeroDivisionError
    assert told == ["ZeroDivisionError", "end"]
