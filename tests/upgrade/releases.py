"""Two releases of the code side by side: this one, and an earlier commit of it."""

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIGRATIONS = "services/database/migrations/versions"


class NoEarlierCommit(Exception):
    """The earlier code cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """Code that processes can be started from: `directory` holds `services/`."""

    name: str
    commit: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.name} ({self.commit})"

    @property
    def migrations(self) -> set[str]:
        """The numbers of the migrations that the release knows."""
        return {path.name.partition("_")[0] for path in (self.directory / MIGRATIONS).glob("[0-9]*.py")}


def newer_release() -> Release:
    """The code as it lies here, committed or not."""
    try:
        commit = _git("describe", "--always", "--dirty")
    except NoEarlierCommit:
        commit = "no commit"
    return Release("newer", commit, ROOT)


def older_release(directory: Path) -> Release:
    """Put the code of the commit that UPGRADE_FROM names into `directory`.

    By default the last commit without the newest migration: so whatever else changed, the schema did. Raises
    NoEarlierCommit where git or its history are not to be had.
    """
    reference = os.environ.get("UPGRADE_FROM") or f"{_commit_of_the_newest_migration()}^"
    commit = _git("rev-parse", "--short", f"{reference}^{{commit}}")
    packed = _git_bytes("archive", "--format=tar", commit, "services")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(directory, filter="data")
    return Release("older", commit, directory)


def _commit_of_the_newest_migration() -> str:
    found = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", MIGRATIONS)
    if not found:
        raise NoEarlierCommit(
            "No commit is known that added a migration: fetch the whole history, or set UPGRADE_FROM."
        )
    return found


def _git(*arguments: str) -> str:
    return _git_bytes(*arguments).decode().strip()


def _git_bytes(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise NoEarlierCommit("git is not installed.") from None
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode().strip().splitlines()
        raise NoEarlierCommit(f"git {arguments[0]}: {told[0] if told else 'failed'}") from None
