"""The commands of docs/runbook.md, run as they are written there."""

import asyncio
import os
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.integration.tracker_process import connected
from tests.monitoring import RUNBOOK, runbook_entries

_BLOCK = re.compile(r"^```(sh|sql)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_END = {"sh": re.compile(r"(?<!\\)\n"), "sql": re.compile(r";\n")}
_SECONDS = 60

TOKEN = "CHAT_SESSIONS_TOKEN"
"""The variable that commands and calls of the HTTP API take it from."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, in one line; what is to be filled in is in capitals."""

    alert: str
    """Whose entry has it; empty of those for all."""
    text: str
    ends_it: bool
    """Whether it is among what to do, and not only shows something."""


class CommandFailed(Exception):
    """A command of the runbook does not work; the message holds the command and what it said."""


def _commands(alert: str, entry: str) -> list[Command]:
    to_do = entry.find("**What to do.**")
    return [
        Command(alert, " ".join(text.replace("\\\n", " ").split()), block.start() > to_do)
        for block in _BLOCK.finditer(entry)
        for text in _END[block[1]].split(block[2])
        if text
    ]


COMMANDS = (
    *_commands("", RUNBOOK.split("\n## ")[0]),
    *(command for alert, entry in runbook_entries().items() for command in _commands(alert, entry)),
)


@dataclass
class Runbook:
    """Runs commands as somebody does who has the processes' settings; remembers which were run."""

    settings: Mapping[str, str]
    tried: list[Command] = field(default_factory=list)

    async def shell(self, alert: str, words: str, **filled_in: str) -> str:
        """Return what the entry's command with these words prints; CommandFailed if its exit code is not 0."""
        return await self._run(self._filled_in(alert, words, filled_in))

    async def sql(self, alert: str, words: str, **filled_in: str) -> list[Any]:
        """Return the rows of the entry's statement with these words."""
        statement = self._filled_in(alert, words, filled_in)
        async with connected(self.settings["DATABASE_URL"]) as rows:
            return [*await rows.fetch(statement)]

    async def sign_in(self) -> None:
        """Set CHAT_SESSIONS_TOKEN, as the runbook's beginning does."""
        exporting = self._filled_in("", f"export {TOKEN}=", {})
        self.settings = {**self.settings, TOKEN: (await self._run(f"{exporting}; echo ${TOKEN}")).strip()}

    def _filled_in(self, alert: str, words: str, filled_in: Mapping[str, str]) -> str:
        (command,) = [one for one in COMMANDS if one.alert == alert and words in one.text]
        self.tried.append(command)
        text = command.text
        for name, value in filled_in.items():
            text, found = re.subn(rf"\$?\b{name}\b", value.replace("\\", r"\\"), text)
            assert found, f"{name} is not in {text}"
        return text

    async def _run(self, command: str) -> str:
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        pipe = asyncio.subprocess.PIPE
        running = await asyncio.create_subprocess_exec(
            *("bash", "-c", command), env={**os.environ, **self.settings, "PATH": path}, stdout=pipe, stderr=pipe
        )
        async with asyncio.timeout(_SECONDS):
            said, complaint = await running.communicate()
        if running.returncode != 0:
            raise CommandFailed(f"{command}: exit code {running.returncode}: {said.decode()}{complaint.decode()}")
        return said.decode()
