"""A process's settings in one line of its log, secrets masked."""

import logging
import re

from pydantic import SecretStr
from pydantic_settings import BaseSettings

logger = logging.getLogger(__name__)

_MASK = "***"
_SECRET_URLS = {"database_url", "rate_limit_storage"}
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/?#@\s]*@)?(?P<place>(?!:)[\w.:,\[\]-]*(?:/[\w.-]*)?)(?:[?#][^@]*)?",
    re.IGNORECASE,
)
"""A URL of which it is certain where its password ends."""


def log_settings(settings: BaseSettings) -> None:
    """Log what the process runs with."""
    logger.info("Settings: %s", shown(settings))


def shown(settings: BaseSettings) -> str:
    """Return `NAME=value` of every setting that is set.

    Of a secret nothing is shown but, where it is a URL, what it leads to. Other URLs lose their passwords, too.
    """
    values = ((name, getattr(settings, name)) for name in type(settings).model_fields)
    return ", ".join(f"{name.upper()}={_shown(name, value)}" for name, value in values if value not in {None, ""})


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        address = _URL.fullmatch(value.get_secret_value()) if name in _SECRET_URLS else None
        return _MASK if address is None else f"{address['scheme']}{_MASK}@{address['place']}"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return re.sub(r"(?<=://)[^/@\s]*@", f"{_MASK}@", text)
