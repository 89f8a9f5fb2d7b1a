"""The reaper: ends every process that `chat-sessions up` started, even when `up` itself was killed.

`up` and its children hold the writing end of a pipe; each child writes its pid into it before it becomes its
program. The reaper reads the other end in a session of its own. When the last writing end is closed, `up` is
gone, and the reaper ends what is listed and still is the same process.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Reaper:
    """A running reaper, as `up` holds it."""

    popen: subprocess.Popen[bytes]
    announcements: int
    """The pipe's writing end: a file descriptor to which children write their pids, one a line."""

    def close(self) -> None:
        """Let the reaper end whatever still runs, and wait until it has (at most 10 s)."""
        os.close(self.announcements)
        self.popen.wait(10)


def start_reaper(keep_open: Sequence[int] = (), remove: Sequence[Path] = ()) -> Reaper:
    """Start a reaper. It holds the file descriptors `keep_open` (a lock, say) until all has ended.

    The files `remove`, which would tell others of a running system, go first.
    """
    reading_end, writing_end = os.pipe()
    try:
        popen = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "services.local.reaper", *map(str, remove)],
            stdin=reading_end,
            stdout=subprocess.DEVNULL,
            pass_fds=keep_open,
            start_new_session=True,
        )
    finally:
        os.close(reading_end)
    return Reaper(popen, writing_end)


def process_group_exists(group: int) -> bool:
    """Whether any process of the group `group` is left, zombies included."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def started_at(pid: int) -> float | None:
    """When the process `pid` was started (seconds since the epoch), or None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def signal_listed(listed: dict[int, float | None], number: signal.Signals) -> None:
    """Signal the process groups of `listed` (pid to start time), leaving out pids that now are someone else's.

    A pid is not given away while its process group has members: a group without its leader is still ours.
    """
    for pid, began in listed.items():
        if started_at(pid) in (began, None) and process_group_exists(pid):
            os.killpg(pid, number)


def is_alive(pid: int) -> bool:
    """Whether there is a process `pid` that is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    """List the pids that arrive on standard input; at its end, terminate them, and kill them 2 s later.

    The files named by the arguments are removed first.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    listed: dict[int, float | None] = {}
    for line in sys.stdin:
        listed[int(line)] = started_at(int(line))
    for path in sys.argv[1:]:
        Path(path).unlink(missing_ok=True)
    signal_listed(listed, signal.SIGTERM)
    give_up = time.monotonic() + _GRACE_SECONDS
    while any(started_at(pid) == began and is_alive(pid) for pid, began in listed.items()):
        if time.monotonic() > give_up:
            break
        time.sleep(0.02)
    signal_listed(listed, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
