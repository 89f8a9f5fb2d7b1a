"""The `chat-sessions` command inside this process, for tests that are not about a process, which takes a CPU second."""

import io
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from services.cli import main
from services.local import data_directory

DEFAULT_DIRECTORY = Path("/nowhere/chat-sessions")
"""Where `up` would keep its data: a stack that a person runs on this machine changes nothing here."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command has said, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str, environment: Mapping[str, str]) -> Done:
    """Run `chat-sessions ARGUMENTS` to its end, with this as its whole environment.

    Nothing else of this process goes on meanwhile; what a process would show as a traceback is raised.
    """
    with ThreadPoolExecutor(1) as other_thread:  # here an event loop may be running, and the command runs its own
        return other_thread.submit(_run, arguments, environment).result()


def _run(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Done:
    told, complained, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", ["chat-sessions", *arguments]),
        patch.object(data_directory, "default_data_directory", lambda: DEFAULT_DIRECTORY),
        redirect_stdout(told),
        redirect_stderr(complained),
    ):
        try:
            main()
        except SystemExit as end:
            code = _exit_code(end)
    return Done(code, told.getvalue(), complained.getvalue())


def _exit_code(end: SystemExit) -> int:
    """What Python makes of it: a message goes to stderr."""
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
        return 1
    return end.code or 0
