"""What a line of the log looks like, and which lines there are."""

import json
import logging
from collections.abc import Iterator
from typing import Literal

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from services.contracts import encode
from services.contracts.codec import session_id_of
from services.runtime.log_metrics import LogMetrics
from services.runtime.logs import about, configure_logs
from tests.unit.events import SESSION_ID, SOURCE, one_of_each

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
logger = logging.getLogger("services.test")


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # pytest's own go on listening, and basicConfig would close them.
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level


def configured(form: Literal["json", "text"]) -> LogMetrics:
    configure_logs("INFO", form, process="tracker")
    return LogMetrics(CollectorRegistry())


def test_a_line_about_a_session_names_it_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configured("json")
    logger.info("Done with %d.", 3, extra=about(SESSION_ID, GIVEN))
    logger.info("Nobody's.", extra=about(None))
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("timestamp")
    assert first == {
        "level": "INFO",
        "logger": "services.test",
        "message": "Done with 3.",
        "process": "tracker",
        "sessionId": str(SESSION_ID),
        "traceId": TRACE,
    }
    assert second.keys() == {"timestamp", "level", "logger", "message", "process"}
    configured("text")
    logger.info("Done.", extra=about(SESSION_ID, GIVEN))
    assert capsys.readouterr().err.endswith(
        f"INFO    tracker services.test: Done. sessionId={SESSION_ID} traceId={TRACE}\n"
    )


def test_a_fault_that_repeats_is_one_line_and_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = configured("text")
    for number in range(5):
        logger.warning("Broker %d is away: %r", number, OSError(number))
    logger.warning("Broker %d is away: %r", 5, TimeoutError())
    logger.info("Broker %d is away: %r", 6, OSError())
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("test: ")[2] for line in lines] == [
        "Broker 0 is away: OSError(0)",
        "Broker 5 is away: TimeoutError()",
        "Broker 6 is away: OSError()",
    ]
    assert metrics.left_out.labels("services.test")._value.get() == 4
    logging.getLogger().handlers[0].close()
    assert capsys.readouterr().err.endswith("the last that was left out: Broker 4 is away: OSError(4) leftOut=4\n")


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_value_of_a_row_is_in_a_traceback(form: Literal["json", "text"], capsys: pytest.CaptureFixture[str]) -> None:
    configured(form)
    refused = asyncpg.NotNullViolationError.new({"C": "23502", "M": "null value", "D": "Failing row contains (ada)."})
    try:
        raise refused
    except asyncpg.PostgresError:
        logger.exception("It failed.")
    told = capsys.readouterr().err
    assert "NotNullViolationError: null value" in told
    assert "ada" not in told


def test_a_record_says_which_session_it_is_about() -> None:
    for event in one_of_each():
        expected = getattr(event, "session_id", None)
        assert session_id_of(encode(event, source=SOURCE).headers) == expected
    forged = [("ce_type", b"chat.MessageSent.v1"), ("ce_subject", b"x\nERROR everything is lost")]
    assert session_id_of(forged) is None
