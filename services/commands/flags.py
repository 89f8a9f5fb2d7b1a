"""What the help says of flags: their names alone, since they take no value."""

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


def show_flags_without_type(command: object) -> None:
    """Let the help of a Typer command, and of all commands below it, show flags without the type `<bool>`."""
    if not isinstance(command, TyperCommand | TyperGroup):
        return
    for parameter in command.get_params(typer.Context(command)):
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            # Typer has no setting for this.
            parameter.display_type_rich = _no_type  # type: ignore[method-assign,assignment]
    for below in command.commands.values() if isinstance(command, TyperGroup) else ():
        show_flags_without_type(below)


def _no_type(**_of_context: object) -> None:
    return None
