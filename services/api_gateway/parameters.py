"""What comes in with a request, read strictly: nothing is silently dropped, and every error names its field."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from services.api_gateway.body_errors import told
from services.api_gateway.filters import values
from services.api_gateway.problems import Problem, invalid_body, invalid_parameter, no_such_session, wrong_fields
from services.contracts import NotAdmitted
from services.contracts.admission import admit_id, admit_text
from services.runtime.at_once import Begun

E = TypeVar("E", bound=StrEnum)
B = TypeVar("B", bound=BaseModel)

MAX_BODY_BYTES = 256 * 1024
MAX_LIMIT = 200
"""Of a page."""
BODY_SECONDS = 15.0


class Query:
    """The query string of a request. Raises Problem 400 for names that the call does not take, and for repeats."""

    def __init__(self, request: Request, *names: str) -> None:
        self._values: dict[str, str] = {}
        if not request.scope["query_string"]:
            return
        for name, value in request.query_params.multi_items():
            if name not in names:
                allowed = ", ".join(names) or "none"
                raise invalid_parameter(name[:128], f"This call does not take it; allowed are: {allowed}.")
            if name in self._values:
                raise invalid_parameter(name, "Give it once.")
            self._values[name] = value

    def text(self, name: str, most: int) -> str | None:
        """Return storable text of at most `most` characters."""
        value = self._values.get(name)
        if value is not None:
            if not 1 <= len(value) <= most:
                raise invalid_parameter(name, f"It must have 1 to {most} characters.")
            _storable(name, value)
        return value

    def identifier(self, name: str) -> str | None:
        """Return an id of the kind that events carry."""
        value = self._values.get(name)
        return None if value is None else identifier(name, value)

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        value = self._values.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and low <= int(value) <= high):
            raise invalid_parameter(name, f"It must be a whole number from {low} to {high}.")
        return int(value)

    def limit(self, most: int = MAX_LIMIT) -> int:
        """Return how many things a page may have."""
        return self.integer("limit", 50, low=1, high=most)

    def seconds(self, name: str, most: float, default: float = 0.0) -> float:
        """Return seconds from 0 to `most`."""
        value = self._values.get(name)
        if value is None:
            return default
        with contextlib.suppress(ValueError):
            if 0 <= (number := float(value)) <= most:
                return number
        raise invalid_parameter(name, f"It must be a number of seconds from 0 to {most:g}.")

    def time(self, name: str) -> datetime | None:
        """Return an ISO 8601 time in UTC, taken as UTC where it names no zone; within 2020 to 9998."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            # An unescaped plus sign of a zone arrives as a space.
            return values.time(value.replace(" ", "+") if "T" in value else value)
        except ValueError as error:
            raise invalid_parameter(name, str(error)) from None

    def time_range(self) -> tuple[datetime | None, datetime | None]:
        """Return the times `from` and `to`, None where not given; Problem 400 where one is after the other."""
        since, until = self.time("from"), self.time("to")
        if since is not None and until is not None and since > until:
            raise invalid_parameter("to", "It must not be before from.")
        return since, until

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """Return one of the allowed words."""
        value = self._values.get(name)
        if value is not None and value not in allowed:
            raise invalid_parameter(name, f"It must be one of {', '.join(allowed)}.")
        return value

    def word(self, name: str, allowed: type[E]) -> E | None:
        """Return one of the words of `allowed`."""
        value = self.choice(name, tuple(allowed))
        return None if value is None else allowed(value)

    def choices(self, name: str, allowed: type[E]) -> tuple[E, ...]:
        """Return one or more of the allowed words, separated by commas."""
        value = self._values.get(name)
        if value is None:
            return ()
        try:
            return tuple(dict.fromkeys(allowed(word.strip().upper()) for word in value.split(",")))
        except ValueError:
            words = ", ".join(allowed)
            raise invalid_parameter(name, f"It must be one or more of {words}, separated by commas.") from None


def identifier(name: str, value: str) -> str:
    """Return the id from a path or query; Problem 400 unless it has 1 to 128 storable characters."""
    try:
        admit_id("It", value)  # the problem names it
    except NotAdmitted as error:
        raise invalid_parameter(name, error.explanation) from None
    return value


def id_in_path(request: Request, name: str, there_is_none: Callable[[], Problem]) -> UUID:
    """Return an id of this system's own making from the path; where it is no UUID, raise that there is none such."""
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise there_is_none() from None


def session_id_of(request: Request) -> UUID:
    """Return the session id in the path; Problem 404 where it is no UUID."""
    return id_in_path(request, "sessionId", no_such_session)


async def read_body(request: Request, *, most: int = MAX_BODY_BYTES) -> bytes:
    """Return the body, `most` bytes of it; Problem 413 before more is read, 408 if it does not come within 15 s.

    Problem 415 for one that is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = "The body is compressed; send it as it is, without Content-Encoding."
        raise Problem(415, "unsupported-encoding", detail, headers={"accept-encoding": "identity"})
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length[:20]) > most:
        raise _too_large(most)
    reading = Begun(_read_all(request, most))
    if reading.has_ended:
        return reading.result
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reading
    except TimeoutError:
        raise Problem(
            408,
            "body-too-slow",
            f"The body did not arrive within {BODY_SECONDS:.0f} s.",
            headers={"connection": "close"},
        ) from None


async def _read_all(request: Request, most: int) -> bytes:
    body, is_over = bytearray(), False
    while not is_over:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        is_over = not message.get("more_body")
    return bytes(body)


def parse_body(model: type[B], body: bytes, *, optional: bool = False) -> B:
    """Return the JSON body as `model`, an empty one as `{}` where it is optional; Problem 400 names wrong fields."""
    if not body and not optional:
        raise invalid_body("body", "It is missing: send a JSON object.")
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise wrong_fields(told(error, model)) from None


def _storable(name: str, value: str) -> None:
    try:
        admit_text("It", value, 4 * len(value))
    except NotAdmitted as error:
        raise invalid_parameter(name, error.explanation) from None


def _too_large(most: int) -> Problem:
    return Problem(
        413,
        "body-too-large",
        f"The body is larger than the {most} bytes that this call takes.",
    )
