"""Keeps the services running: starts them, notices a death, starts them again with back-off."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.local.processes import ChildProcess, how_it_ended, start_process
from services.local.reaper import Reaper
from services.local.restarts import GiveUp, after_death


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, with its whole environment, and where it tells its health."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ops_url: str


class KeepsDyingError(Exception):
    """A process ends again and again; the message names it and shows its last lines."""


class Deaths:
    """Remembers who died when, and so decides what follows; `say` gets a line for each death."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._times: dict[str, list[float]] = {}

    def note(self, child: ChildProcess, code: int, now: float) -> float:
        """Note a death at `now` (monotonic); gives the seconds until its next start. Raises KeepsDyingError."""
        times = self._times.setdefault(child.name, [])
        times.append(now)
        decision = after_death(times, now, code)
        if isinstance(decision, GiveUp):
            raise KeepsDyingError(f"{child.name} {decision.reason}. Its last lines:\n{child.last_lines(20)}")
        self._say(f"{child.name} {how_it_ended(code)}; it starts again in {decision.delay_seconds:.2g} s.")
        return decision.delay_seconds


class Supervisor:
    """Runs programs by name until told to stop them.

    `say` gets one line for each death and each new start.
    """

    def __init__(self, log_directory: Path, reaper: Reaper, say: Callable[[str], None]) -> None:
        self._log_directory = log_directory
        self._reaper = reaper
        self._say = say
        self._programs: dict[str, Program] = {}
        self._running: dict[str, ChildProcess] = {}
        self._deaths = Deaths(say)
        self._due: dict[str, float] = {}

    def start(self, program: Program) -> None:
        """Start a program; from now on it is started again whenever it dies."""
        self._programs[program.name] = program
        self._running[program.name] = start_process(
            program.name,
            program.command,
            environment=program.environment,
            log_path=self._log_directory / f"{program.name}.log",
            reaper=self._reaper,
        )
        self._due.pop(program.name, None)

    def look_after(self, now: float) -> bool:
        """Notice deaths and start what is due; `now` is monotonic. Tells whether pids changed.

        Raises KeepsDyingError.
        """
        before = self.pids()
        for name, child in list(self._running.items()):
            if (code := child.exit_code()) is not None:
                self._note_death(name, child, code, now)
        for name in [name for name, due in self._due.items() if due <= now]:
            self.start(self._programs[name])
            self._say(f"{name} was started again (pid {self._running[name].pid}).")
        return self.pids() != before

    def pids(self) -> dict[str, int]:
        """The running processes."""
        return {name: child.pid for name, child in self._running.items()}

    def programs(self) -> list[Program]:
        """What is looked after, also while it waits for its next start."""
        return list(self._programs.values())

    def stop(self, names: Sequence[str], grace_seconds: float) -> None:
        """Ask all of `names` to end, wait at most `grace_seconds` for all together, then kill the rest."""
        children = [self._running.pop(name) for name in names if name in self._running]
        for name in names:
            self._programs.pop(name, None)
            self._due.pop(name, None)
        for child in children:
            child.ask_to_stop()
        give_up = time.monotonic() + grace_seconds
        for child in children:
            child.finish(max(0.0, give_up - time.monotonic()))

    def _note_death(self, name: str, child: ChildProcess, code: int, now: float) -> None:
        # Workers of a killed server would keep its port.
        child.kill_group()
        del self._running[name]
        self._due[name] = now + self._deaths.note(child, code, now)
