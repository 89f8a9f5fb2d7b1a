"""Whether every process could start with the settings of this environment."""

from collections.abc import Mapping, Sequence

from pydantic_settings import BaseSettings

from services.api_gateway.settings import GatewaySettings
from services.commands.checkup.findings import Finding, notice, well, wrong
from services.commands.wording import listed
from services.runtime.settings import WrongSettings, read_settings
from services.session_tracker.settings import SweeperSettings, TrackerSettings
from services.webhook_dispatcher.settings import DispatcherSettings

CHECK = "settings"
PROCESSES: Mapping[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "dispatcher": DispatcherSettings,
    "tracker": TrackerSettings,
    "sweeper": SweeperSettings,
}
"""What each process reads from the environment."""


def check_settings(*, is_stack: bool) -> list[Finding]:
    """Look whether each process could start here; values are not shown.

    Where the target is a running stack of this machine its processes have settings of their own, and what is wrong
    here keeps only a new one from starting.
    """
    problems = settings_problems()
    if is_stack:
        others = "the stack that runs has its own; correct it before a new one is started here."
        return [notice(CHECK, f"Of this terminal: {problem}", others) for problem in problems]
    if not problems:
        return [well(CHECK, f"{listed([*PROCESSES])} can start with them.")]
    return [
        wrong(CHECK, f"Of {listed(processes)}: {problem}", "correct it, and start them again.")
        for problem, processes in problems.items()
    ]


def settings_problems() -> dict[str, Sequence[str]]:
    """Each problem of the environment's settings, a whole sentence, with the processes that would not start."""
    found: dict[str, list[str]] = {}
    for process in PROCESSES:
        for problem in problems_of(process):
            found.setdefault(problem, []).append(process)
    return {**found}


def problems_of(process: str) -> Sequence[str]:
    """What keeps one process from starting in this environment, a sentence each; nothing is connected to."""
    try:
        read_settings(PROCESSES[process])
    except WrongSettings as error:
        return error.problems
    return ()
