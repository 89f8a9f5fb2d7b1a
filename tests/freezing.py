"""Processes that stand still: alive, connected, and answering nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def freeze(pid: int) -> None:
    """Stop a process, and return once none of its threads runs: until then it may still answer."""
    psutil.Process(pid).suspend()
    give_up = time.monotonic() + 10
    while not _stands_still(pid):
        assert time.monotonic() < give_up, f"Process {pid} still runs 10 s after it was stopped."
        time.sleep(0.001)


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Within it a process and all that it began stand still; it goes on, and they do, at the end."""
    process = psutil.Process(pid)
    freeze(pid)  # first, so that it begins no more of them
    pids = [pid, *(child.pid for child in process.children(recursive=True))]
    try:
        for each in pids[1:]:
            freeze(each)
        yield
    finally:
        for each in pids:
            thaw(each)


def thaw(pid: int) -> None:
    """Let a process go on."""
    psutil.Process(pid).resume()


def _stands_still(pid: int) -> bool:
    try:
        # The name, in parentheses, may hold anything; the state follows it: see proc_pid_stat(5).
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread ended while it was looked at
    return set(states) == {"T"}
