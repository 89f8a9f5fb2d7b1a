"""SIGINT and SIGTERM as an exception, for what runs in the foreground until a person stops it."""

import signal
from types import FrameType
from typing import NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """SIGINT or SIGTERM arrived."""


def stop_on_signals() -> None:
    """Let the first of the signals raise StopRequested; later ones do nothing."""
    for number in _NUMBERS:
        signal.signal(number, _raise_stop)


def ignore_signals() -> None:
    """Let the signals do nothing, so that a second one does not interrupt the stopping."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _raise_stop(_number: int, _frame: FrameType | None) -> NoReturn:
    ignore_signals()
    raise StopRequested
