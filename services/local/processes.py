"""Child processes of `chat-sessions up`: started under a reaper, logged to a file, stopped with a deadline."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.local.reaper import Reaper, process_group_exists

# The child tells the reaper its own pid before it becomes the program. It holds the pipe's writing end until
# then, so the reaper cannot see the end of the pipe while a pid is still missing from its list.
_ANNOUNCE_THEN_RUN = 'echo $$ >&0 && exec "$@" 0</dev/null'


class ProcessEndedError(Exception):
    """A process ended that should be running; the message names it, its exit code and its last lines."""


class PortBusyError(Exception):
    """Another process listens where one of ours should; the message names the port."""


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running child: the leader of a session and process group of its own."""

    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self.popen.pid

    def exit_code(self) -> int | None:
        """The exit code (negative for a signal), or None while it runs."""
        return self.popen.poll()

    def ask_to_stop(self, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        """Send `stop_signal` to the process; nothing happens if it has ended."""
        self.popen.send_signal(stop_signal)

    def stop(self, grace_seconds: float, stop_signal: signal.Signals = signal.SIGTERM) -> int:
        """Ask, wait at most `grace_seconds`, then kill; afterwards nothing of its process group is left."""
        self.ask_to_stop(stop_signal)
        return self.finish(grace_seconds)

    def finish(self, grace_seconds: float) -> int:
        """Wait at most `grace_seconds` for it to end, then kill its whole process group; gives the exit code."""
        try:
            self.popen.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
        self.kill_group()
        return self.popen.wait()

    def kill_group(self) -> None:
        """Kill what is left of its process group, such as the workers of a server that was killed."""
        if process_group_exists(self.pid):
            os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self, count: int = 10) -> str:
        """The last `count` lines of its log."""
        return last_lines(self.log_path, count)

    def ensure_running(self) -> None:
        """Raise ProcessEndedError if it has ended."""
        if (code := self.exit_code()) is not None:
            raise ProcessEndedError(f"{self.name} {how_it_ended(code)}. Its last lines:\n{self.last_lines()}")


def start_process(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_path: Path,
    reaper: Reaper,
    user: int | None = None,
    group: int | None = None,
) -> ChildProcess:
    """Start `command` in a session of its own, its output appended to `log_path`, its death tied to the reaper.

    `environment` is the whole environment of the process. With `user` and `group` it runs as them.
    """
    with log_path.open("ab") as log:
        popen = subprocess.Popen(  # noqa: S603 - the command is built by this package
            ["/bin/sh", "-c", _ANNOUNCE_THEN_RUN, name, *command],
            stdin=reaper.announcements,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
    return ChildProcess(name, popen, log_path)


def run_to_end(child: ChildProcess, timeout_seconds: float) -> None:
    """Wait until a one-shot process has ended well; ProcessEndedError if it failed or took too long."""
    try:
        code = child.popen.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        child.stop(0)
        raise ProcessEndedError(
            f"{child.name} did not end within {timeout_seconds:.0f} s. Its last lines:\n{child.last_lines()}"
        ) from None
    if code != 0:
        raise ProcessEndedError(f"{child.name} {how_it_ended(code)}. Its last lines:\n{child.last_lines()}")


def how_it_ended(code: int) -> str:
    """What completes the sentence that begins with a process's name; `code` is its exit code, negative for a signal."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed ({signal.Signals(-code).name})"


def last_lines(path: Path, count: int) -> str:
    """The last `count` lines of a text file, of its last 64 KiB; empty when there is no such file."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-count:])


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ensure_port_is_free(port: int, purpose: str, otherwise: str = "choose another port") -> None:
    """Raise PortBusyError if something already has `port` of 127.0.0.1.

    The message says who wants it, `purpose`, and what to do, `otherwise`, if what uses it is to go on.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortBusyError(
                f"Port {port}, wanted for {purpose}, cannot be had ({error.strerror}): "
                f"stop the process that uses it, or {otherwise}."
            ) from error


def port_is_open(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections at `port`."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_port(child: ChildProcess, port: int, timeout_seconds: float) -> None:
    """Wait until `child` accepts connections; ProcessEndedError if it ended, TimeoutError if it takes too long."""
    give_up = time.monotonic() + timeout_seconds
    while not port_is_open(port):
        child.ensure_running()
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"{child.name} did not listen within {timeout_seconds:.0f} s; its log is {child.log_path}."
            )
        time.sleep(0.01)
