"""The `chat-sessions` command as a person would type it where this process was started."""

import os
import shlex
import shutil
import sys
from pathlib import Path

_NAME = "chat-sessions"


def typed_command() -> str:
    """How this process's own `chat-sessions` is started again from its working directory, fit for a shell."""
    return as_typed(sys.argv[0], Path.cwd(), os.environ.get("PATH", os.defpath))


def as_typed(argument: str, directory: Path, search_path: str) -> str:
    """As typed_command(), of a process whose first argument, working directory and PATH these are."""
    started = directory / argument
    if started.name != _NAME:  # as `python -m services.cli`
        started = Path(sys.executable).with_name(_NAME)
    found = shutil.which(_NAME, path=search_path)
    if found is not None and started.exists() and started.samefile(found):
        return _NAME
    shown = started.relative_to(directory) if started.is_relative_to(directory) else started
    return shlex.quote(f"./{shown}" if len(shown.parts) == 1 else str(shown))
