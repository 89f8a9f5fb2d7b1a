"""Secrets from files: `NAME_FILE` is the path of a file that holds what `NAME` would."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings

SUFFIX = "_FILE"
_MOST_BYTES = 64 * 1024


class UnusableSecretFile(Exception):
    """A secret's file cannot be used; the text is a whole sentence that names the setting and shows no secret."""


def secret_names(settings: type[BaseSettings]) -> list[str]:
    """Return the fields of `settings` that are secret, and so may come from files."""
    return [
        name
        for name, field in settings.model_fields.items()
        if field.annotation is SecretStr or SecretStr in get_args(field.annotation)
    ]


def secret(name: str, environment: Mapping[str, str]) -> str | None:
    """Return what `NAME` says or the file that `NAME_FILE` names holds, without the line's end; None without both.

    Raises UnusableSecretFile where both are given, or the file holds nothing that can be read.
    """
    value, path = environment.get(name) or None, environment.get(f"{name}{SUFFIX}")
    if not path:
        return value
    if value is not None:
        raise UnusableSecretFile(f"{name} and {name}{SUFFIX} are both set: remove one of them.")
    return _read(name, Path(path))


def from_files(settings: type[BaseSettings], environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the secrets of `settings` that come from files, by field, and a sentence for each that cannot be used."""
    values: dict[str, str] = {}
    problems: list[str] = []
    for field in secret_names(settings):
        name = field.upper()
        if not environment.get(f"{name}{SUFFIX}"):
            continue
        try:
            values[field] = secret(name, environment) or ""
        except UnusableSecretFile as error:
            problems.append(str(error))
    return values, problems


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise UnusableSecretFile(f"{name}{SUFFIX} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UnusableSecretFile(f"{name}{SUFFIX} is wrong: the file must hold text in UTF-8.") from None
    if len(content) > _MOST_BYTES:
        raise UnusableSecretFile(f"{name}{SUFFIX} is wrong: the file is larger than {_MOST_BYTES} bytes.")
    if not (line := text.removesuffix("\n").removesuffix("\r")):
        raise UnusableSecretFile(f"{name}{SUFFIX} is wrong: the file is empty.")
    return line
