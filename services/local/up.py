"""`chat-sessions up` as a command: it runs the stack until a signal, and turns failures into plain words."""

import os

from rich.console import Console

from services.local.data_directory import (
    AlreadyRunningError,
    DataDirectory,
    UnusableDirectoryError,
    open_data_directory,
)
from services.local.kafka_artifacts import KafkaMissingError
from services.local.postgres import PostgresError
from services.local.postgres_place import PlaceError
from services.local.processes import PortBusyError, ProcessEndedError, ensure_port_is_free
from services.local.reaper import start_reaper
from services.local.service_health import NotReadyError, PersonaRefusedError
from services.local.signals import StopRequested, ignore_signals, stop_on_signals
from services.local.stack import Stack, show
from services.local.stack_options import StackOptions
from services.local.supervisor import KeepsDyingError

_FAILURES = (
    AlreadyRunningError,
    UnusableDirectoryError,
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
        show(console, str(error))
        return 1
    finally:
        ignore_signals()
        stack.stop()
        # Whatever a failed start or stop overlooked ends here.
        reaper.close()


def _directory_of(options: StackOptions) -> DataDirectory:
    """The data directory, once the port can be had too; a busy port leaves no new directory behind."""
    purpose = "the gateway (--port)"
    if not os.access(options.data_directory, os.F_OK):
        ensure_port_is_free(options.port, purpose)
    # Where a stack runs in it, that is said first: the port is busy for that reason.
    directory = open_data_directory(options.data_directory)
    ensure_port_is_free(options.port, purpose)
    return directory
