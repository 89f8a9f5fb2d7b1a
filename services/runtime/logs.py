"""Logs to stderr: one JSON object a line for machines, or plain text for people."""

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

NOISY = ("aiokafka", "faststream", "uvicorn", "httpx", "asyncio")
"""Libraries whose warnings matter and whose information does not."""


def configure_logs(level: str, form: Literal["json", "text"], *, process: str) -> None:
    """Send every log line of this process to stderr, marked with the process's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(form, process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def _formatter(form: Literal["json", "text"], process: str) -> logging.Formatter:
    if form == "text":
        return logging.Formatter(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s")
    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s",
        timestamp=True,
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={"process": process},
    )
