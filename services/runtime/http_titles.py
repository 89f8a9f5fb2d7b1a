"""What HTTP's statuses are called. No I/O."""

from http import HTTPStatus

_NEWER = {413: "Content Too Large", 422: "Unprocessable Content"}
"""RFC 9110 has named these anew; Python does so from 3.13 on."""


def title_of(status: int) -> str:
    """Return the reason phrase of a status, as RFC 9110 has it."""
    return _NEWER.get(status) or HTTPStatus(status).phrase
