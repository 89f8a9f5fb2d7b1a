"""How sessions are written down for elsewhere: as NDJSON or CSV, in one piece or compressed. No I/O."""

import csv
import io
import zlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic_core import to_json

from services.api_gateway.answer_models import Session
from services.api_gateway.json_text import as_json

COLUMNS = tuple(field.alias or name for name, field in Session.model_fields.items())
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_GZIP = 16 + zlib.MAX_WBITS


class Format(StrEnum):
    """What an export can be."""

    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        """The content type."""
        return "application/x-ndjson" if self is Format.NDJSON else "text/csv; charset=utf-8; header=present"


class Writer:
    """Writes one export, page by page."""

    def __init__(self, form: Format, *, compressed: bool) -> None:
        self._form = form
        self._deflate = zlib.compressobj(level=1, wbits=_GZIP) if compressed else None

    @property
    def compressed(self) -> bool:
        """Whether what it writes is gzip."""
        return self._deflate is not None

    def headers(self, name: str) -> dict[str, str]:
        """Return the headers of an answer that a browser keeps as a file of this name."""
        headers = {
            "content-type": self._form.media_type,
            "content-disposition": f'attachment; filename="{name}.{self._form}"',
            "vary": "accept-encoding",
        }
        return {**headers, "content-encoding": "gzip"} if self.compressed else headers

    def beginning(self) -> bytes:
        """Return what comes before the first page."""
        return self._packed(_table([COLUMNS]) if self._form is Format.CSV else b"")

    def page(self, sessions: Sequence[dict[str, Any]]) -> bytes:
        """Return the sessions of a page, or as NDJSON whatever else it holds, one a line."""
        if self._form is Format.CSV:
            return self._packed(_table([[_cell(session[name]) for name in COLUMNS] for session in sessions]))
        return self._packed(b"".join(as_json(session) + b"\n" for session in sessions))

    def end(self) -> bytes:
        """Return what comes after the last page."""
        return b"" if self._deflate is None else self._deflate.flush()

    def _packed(self, part: bytes) -> bytes:
        return part if self._deflate is None else self._deflate.compress(part)


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header takes gzip."""
    weights = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameter = part.partition(";")
        name, _, weight = parameter.strip().partition("=")
        weights[coding.strip()] = name != "q" or weight.strip("0. ") != ""
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))


def _table(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return to_json(value).decode()
    # Spreadsheets run what looks like a formula; these texts were written by strangers.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
