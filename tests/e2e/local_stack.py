"""Starts `chat-sessions up` as a person would, and follows what it says in stack.json."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from services.local.apache_kafka import BRIEF
from services.local.processes import free_port
from services.local.reaper import is_alive
from tests.engine import on_apache_kafka

NO_LIMITS = {"RATE_LIMIT_MESSAGES": "0", "RATE_LIMIT_READS": "0"}


T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Return the first true value of a condition; fail with `what` was waited for after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, f"Not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Up:
    """A running `chat-sessions up`."""

    popen: subprocess.Popen[bytes]
    data_directory: Path
    output: Path

    def stack(self) -> dict[str, Any]:
        """stack.json as it is now."""
        stack: dict[str, Any] = json.loads((self.data_directory / "stack.json").read_text())
        return stack

    def descendants(self) -> list[int]:
        """Every process that it has started, and what those have started."""
        return [process.pid for process in psutil.Process(self.popen.pid).children(recursive=True)]

    def stop(self) -> int:
        """Ask it to stop, and give its exit code."""
        self.popen.terminate()
        return self.popen.wait(60)


def start_up(
    data_directory: Path, *options: str, environment: Mapping[str, str] = NO_LIMITS, seconds: float = 120
) -> Up:
    """Start it on a free port and return once stack.json says that it is ready; fail after `seconds`."""
    output = data_directory.with_suffix(".out")
    command = [sys.executable, "-m", "services.cli", "up", "--data-dir", str(data_directory)]
    command += ["--port", str(free_port()), *options]
    if on_apache_kafka() and "--kafka" not in options:
        command += ["--broker", "kafka"]
        environment = {**environment, "JAVA_HOME": str(brief_java(data_directory.with_suffix(".java")))}
    with output.open("ab") as file:
        popen = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})

    def ready_or_ended() -> bool:
        return (data_directory / "stack.json").exists() or popen.poll() is not None

    try:
        until(ready_or_ended, seconds, "stack.json")
        assert popen.poll() is None, f"`up` has ended:\n{output.read_text()}"
    except AssertionError:
        popen.terminate()
        popen.wait(60)
        raise
    return Up(popen, data_directory, output)


def brief_java(home: Path) -> Path:
    """Make `home` a JAVA_HOME of this machine's Java, whose brokers are ones that soon end."""
    path = os.environ.get("PATH", os.defpath)
    java = shutil.which("java", path=str(Path(os.environ["JAVA_HOME"]) / "bin") if "JAVA_HOME" in os.environ else path)
    assert java is not None
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {java} {" ".join(BRIEF)} "$@"\n')
    program.chmod(0o755)
    return home


def left_over(pids: list[int]) -> list[int]:
    """Those of `pids` that still run."""
    return [pid for pid in pids if is_alive(pid)]
