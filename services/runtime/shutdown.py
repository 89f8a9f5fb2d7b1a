"""How a process is told to stop: by a signal, or by a bug that it must not survive."""

import asyncio
import faulthandler
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from services.runtime.loop import Loop

logger = logging.getLogger(__name__)

YOUNG_OBJECTS = 200_000
"""New objects between two searches for reference cycles."""
LAST_SECONDS = 15.0
"""How long a process may take to end after a bug."""


class Shutdown:
    """One flag that the whole process waits on."""

    def __init__(self, *, on_bug: Callable[[], None] = lambda: None) -> None:
        self._requested = asyncio.Event()
        self._bug: BaseException | None = None
        self._on_bug = on_bug

    def request(self) -> None:
        """Ask for an orderly stop."""
        self._requested.set()

    def fail(self, bug: BaseException) -> None:
        """Stop because of a bug: the process ends with exit code 1, and its log names the bug."""
        if self._bug is None:
            self._bug = bug
            logger.critical("A bug stops this process: %r", bug, exc_info=bug)
            self._on_bug()
        self._requested.set()

    def watch(self, task: asyncio.Task[object]) -> None:
        """Treat the end of `task` by an exception as a bug."""
        task.add_done_callback(self._task_done)

    async def wait(self) -> None:
        """Return when the process is to stop."""
        await self._requested.wait()

    @property
    def requested(self) -> bool:
        """True from the moment the process is to stop."""
        return self._requested.is_set()

    @property
    def exit_code(self) -> int:
        """0 after an orderly stop, 1 after a bug."""
        return 0 if self._bug is None else 1

    def _task_done(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)


def run(
    main: Callable[[Shutdown], Awaitable[None]],
    *,
    stop_limit_seconds: float = 0.0,
    last_seconds: float = LAST_SECONDS,
) -> int:
    """Run `main` in an event loop until it returns; SIGINT and SIGTERM request its shutdown. Return the exit code.

    After a signal the process ends within `stop_limit_seconds`, unless that is 0, and after a bug within
    `last_seconds`, whatever may hang then: stderr shows what did, and the exit code is 1.
    """

    # A batch makes tens of thousands of objects and hardly a cycle: looking for cycles took a third of the CPU.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    gc.enable()  # the command turns it off while it loads a service

    async def supervised() -> int:
        # A thread of its own sees to it: the event loop may be what hangs.
        shutdown = Shutdown(on_bug=partial(faulthandler.dump_traceback_later, last_seconds, exit=True))
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if stop_limit_seconds and not shutdown.requested:
                faulthandler.dump_traceback_later(stop_limit_seconds, exit=True)
            shutdown.request()

        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop)
        await main(shutdown)
        return shutdown.exit_code

    return uvloop.run(supervised(), loop_factory=Loop)
