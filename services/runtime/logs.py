"""Logs to stderr: one JSON object a line for machines, or plain text for people.

A line about a session has the fields `sessionId` and `traceId` (`about`). What a line tells is never personal: no user
ids, no texts, no values of rows.
"""

import copy
import logging
import sys
import time
from functools import partial
from types import TracebackType
from typing import Literal
from uuid import UUID

from prometheus_client import Counter
from pythonjsonlogger.json import JsonFormatter

from services.runtime.repeats import Fault, Repeats
from services.runtime.tracing import trace_id_of

NOISY = ("aiokafka", "faststream", "uvicorn", "httpx", "asyncio", "opentelemetry", "urllib3")
"""Libraries whose warnings matter and whose information does not."""
FIELDS = ("sessionId", "traceId", "leftOut")
"""What a line may have beside its text, in this order."""
_VALUES_OF_ROWS = ("DETAIL:", "[parameters:")
"""Begin those lines of a database error's text that show what was in a row."""

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def about(session_id: UUID | str | None, traceparent: str | None = None) -> dict[str, str]:
    """Return the fields of a line about a session, or about a request; to be given to the logger as `extra`."""
    fields = {} if session_id is None else {"sessionId": str(session_id)}
    trace_id = trace_id_of(traceparent)
    return fields if trace_id is None else {**fields, "traceId": trace_id}


def configure_logs(level: str, form: Literal["json", "text"], *, process: str) -> None:
    """Send every log line of this process to stderr, marked with the process's name.

    Of a fault that repeats one line a minute is written, with the number of those left out since the last in `leftOut`.
    """
    handler = CalmHandler(Repeats())
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def count_left_out(counter: Counter) -> None:
    """Let the counter, by `logger`, count the lines that are left out of this process's log from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, CalmHandler):
            handler.left_out = counter


class CalmHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines to stderr, and of those that tell the same fault again one each period.

    The same fault is: the same logger, the same text before anything is filled in, and the same class of error, or
    the same `fault` in the line's `extra`. Only warnings and errors count as faults; what stops the process is always
    told. How many were left out when a fault ended is told with whatever is logged next, or at the process's end.
    """

    def __init__(self, repeats: Repeats) -> None:
        super().__init__(sys.stderr)
        self.left_out: Counter | None = None
        self._repeats = repeats

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, unless it tells again what was told."""
        now = time.monotonic()
        self._tell_over(now)
        if not logging.WARNING <= record.levelno < logging.CRITICAL:
            super().emit(record)
            return
        left_out = self._repeats.take(_fault(record), now, partial(_line, record))
        if left_out is None:
            if self.left_out is not None:
                self.left_out.labels(record.name).inc()
            return
        if left_out:
            record = copy.copy(record)
            record.leftOut = left_out
        super().emit(record)

    def close(self) -> None:
        """Tell what was not told yet."""
        self._tell_over(float("inf"))
        super().close()

    def _tell_over(self, now: float) -> None:
        for fault, last, left_out in self._repeats.over(now):
            told = "No more lines like this one, the last that was left out: %s"
            record = logging.LogRecord(fault.logger, logging.WARNING, "", 0, told, (last,), None)
            record.leftOut = left_out
            super().emit(record)


def _fault(record: logging.LogRecord) -> Fault:
    given = getattr(record, "fault", None)
    if given is not None:
        return Fault(record.name, str(record.msg), str(given))
    error = record.exc_info[1] if record.exc_info else None
    arguments = record.args if isinstance(record.args, tuple) else ()
    errors = [one for one in (error, *arguments) if isinstance(one, BaseException)]
    return Fault(record.name, str(record.msg), type(errors[0]).__name__ if errors else "")


def _line(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # what was to be filled in does not fit: whoever is told of it sees that
        return str(record.msg)


class _Text(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line with its fields behind it."""
        fields = "".join(f" {name}={vars(record)[name]}" for name in FIELDS if name in vars(record))
        return super().formatMessage(record) + fields

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - logging's name
        """Return the traceback without values of rows."""
        return _without_values(super().formatException(ei))


class _Json(JsonFormatter):
    def __init__(self, process: str) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"process": process},
        )

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - logging's name
        """Return the traceback without values of rows."""
        return _without_values(logging.Formatter.formatException(self, ei))


def _without_values(traceback: str) -> str:
    return "\n".join(line for line in traceback.splitlines() if not line.lstrip(" |").startswith(_VALUES_OF_ROWS))
