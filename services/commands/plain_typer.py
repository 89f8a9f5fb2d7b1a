"""What Typer says by itself, in plain words: flags are shown by their names alone, wrong values without its jargon."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from services.runtime.plain_words import plain


def speak_plainly(command: object) -> None:
    """Change what a Typer command, and all commands below it, say of flags, and of values that cannot be used."""
    # Typer has no settings for these.
    for parameter in _parameters(command):
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.display_type_rich = _no_type  # type: ignore[method-assign,assignment]
        _complain_plainly(parameter)


def _parameters(command: object) -> Iterator[TyperArgument | TyperOption]:
    if not isinstance(command, TyperCommand | TyperGroup):
        return
    for parameter in command.get_params(typer.Context(command)):
        if isinstance(parameter, TyperArgument | TyperOption):
            yield parameter
    for below in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from _parameters(below)


def _complain_plainly(parameter: TyperArgument | TyperOption) -> None:
    own = parameter.process_value

    def process_value(context: Any, value: Any) -> Any:
        try:
            return own(context, value)
        except typer.BadParameter as wrong:
            wrong.message = plain(wrong.message)
            raise

    parameter.process_value = process_value  # type: ignore[method-assign,assignment]


def _no_type(**_of_context: object) -> None:
    return None
