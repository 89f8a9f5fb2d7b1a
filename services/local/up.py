"""`chat-sessions up` as a command: it runs the stack until a signal, and turns failures into plain words."""

import os
from pathlib import Path

from rich.console import Console

from services.local.data_directory import (
    AlreadyRunningError,
    DataDirectory,
    DirectoryGoneError,
    UnusableDirectoryError,
    open_data_directory,
)
from services.local.kafka_artifacts import KafkaMissingError
from services.local.persona_seeds import PersonaRefusedError
from services.local.postgres import PostgresError
from services.local.postgres_place import PlaceError
from services.local.processes import PortBusyError, ProcessEndedError, ensure_port_is_free
from services.local.reaper import start_reaper
from services.local.service_health import NotReadyError
from services.local.signals import StopRequested, ignore_signals, stop_on_signals
from services.local.stack import Stack, show
from services.local.stack_options import StackOptions
from services.local.supervisor import KeepsDyingError
from services.local.typed import typed_command

_FAILURES = (
    AlreadyRunningError,
    UnusableDirectoryError,
    DirectoryGoneError,
    KafkaMissingError,
    PortBusyError,
    ProcessEndedError,
    PostgresError,
    PlaceError,
    KeepsDyingError,
    NotReadyError,
    PersonaRefusedError,
    TimeoutError,
)


def run_stack(options: StackOptions, console: Console) -> int:
    """Run everything that `options` ask for until SIGINT or SIGTERM, and leave nothing running.

    Gives the exit code: 0 when told to stop, 1 after a failure, which was shown in plain words.
    """
    stop_on_signals()
    try:
        directory = _directory_of(options)
        reaper = start_reaper(keep_open=[directory.lock], remove=[directory.stack_file])
    except _FAILURES as error:
        show(console, str(error))
        return 1
    except StopRequested:
        return 0
    stack = Stack(options, directory, reaper, console)
    try:
        stack.start()
        stack.watch()
    except StopRequested:
        return 0
    except _FAILURES as error:
        show(console, in_terms_of(options, str(error)))
        return 1
    except FileNotFoundError as error:
        if not _is_within(error.filename, directory):
            raise
        show(console, f"{error.filename} is gone, so everything stops: leave {directory.path} alone while it runs.")
        return 1
    finally:
        ignore_signals()
        stack.stop()
        # Whatever a failed start or stop overlooked ends here.
        reaper.close()


def in_terms_of(options: StackOptions, failure: str) -> str:
    """Return the failure's text with the flags that were given in place of the settings that they become."""
    named = {
        "KAFKA_BOOTSTRAP_SERVERS": ("--kafka", options.kafka),
        "DATABASE_URL": ("--database-url", options.database_url),
    }
    for setting, (flag, given) in named.items():
        failure = failure if given is None else failure.replace(setting, flag)
    return failure


def _is_within(path: object, directory: DataDirectory) -> bool:
    return isinstance(path, str | Path) and Path(path).is_relative_to(directory.path)


def _directory_of(options: StackOptions) -> DataDirectory:
    """The data directory, once the port can be had too; a busy port leaves no new directory behind."""
    purpose, another = "the gateway (--port)", options.port + 1 if options.port < 65_535 else 3000
    otherwise = f"choose another port: `{typed_command()} up --port {another}`"
    if not os.access(options.data_directory, os.F_OK):
        ensure_port_is_free(options.port, purpose, otherwise)
    # Where a stack runs in it, that is said first: the port is busy for that reason.
    directory = open_data_directory(options.data_directory)
    ensure_port_is_free(options.port, purpose, otherwise)
    return directory
