"""Whether every process could start with the settings of this environment."""

from collections.abc import Mapping, Sequence

from pydantic_settings import BaseSettings

from services.api_gateway.settings import GatewaySettings
from services.runtime.settings import WrongSettings, read_settings
from services.session_tracker.settings import SweeperSettings, TrackerSettings
from services.webhook_dispatcher.settings import DispatcherSettings

PROCESSES: Mapping[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "dispatcher": DispatcherSettings,
    "tracker": TrackerSettings,
    "sweeper": SweeperSettings,
}
"""What each process reads from the environment."""


def settings_problems() -> dict[str, Sequence[str]]:
    """Each problem of the environment's settings, a whole sentence, with the processes that would not start."""
    found: dict[str, list[str]] = {}
    for process, settings in PROCESSES.items():
        try:
            read_settings(settings)
        except WrongSettings as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(process)
    return {**found}
