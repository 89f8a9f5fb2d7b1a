"""Nothing outlives the one who started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from services.local.processes import start_process
from services.local.reaper import Reaper, signal_listed, started_at
from tests.patience import PATIENT_SECONDS

# Starts two children, the second deaf to SIGTERM and with a child of its own, prints their pids, and waits.
PARENT = """
import signal, sys, time
from pathlib import Path
from services.local.processes import start_process
from services.local.reaper import start_reaper
reaper = start_reaper()
deaf = "trap '' TERM; sleep 600 & echo $! > " + sys.argv[1] + "; wait; sleep 600"
for name, command in (("plain", ["sleep", "600"]), ("deaf", ["sh", "-c", deaf])):
    child = start_process(name, command, environment={"PATH": "/usr/bin:/bin"}, log_path=Path(sys.argv[2]),
                          reaper=reaper)
    print(child.pid, flush=True)
print(reaper.popen.pid, flush=True)
time.sleep(600)
"""


def until(condition: Callable[[], bool], seconds: float = PATIENT_SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "The condition did not come true in time."
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    grandchild_file = tmp_path / "grandchild"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(grandchild_file), str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(3)]
        until(lambda: grandchild_file.exists() and grandchild_file.read_text().endswith("\n"))
        pids.append(int(grandchild_file.read_text()))
        assert not any(is_gone(pid) for pid in pids)
        parent.kill()
    until(lambda: all(is_gone(pid) for pid in pids))


def test_a_pid_that_now_is_another_process_is_left_alone(tmp_path: Path, reaper: Reaper) -> None:
    child = start_process(
        "sleep", ["sleep", "600"], environment={"PATH": os.defpath}, log_path=tmp_path / "log", reaper=reaper
    )
    began = started_at(child.pid)
    assert began is not None
    signal_listed({child.pid: began - 1}, signal.SIGKILL)
    assert child.exit_code() is None
    signal_listed({child.pid: began}, signal.SIGKILL)
    assert child.popen.wait(10) == -signal.SIGKILL


def test_stop_ends_a_deaf_process_and_what_it_started(tmp_path: Path, reaper: Reaper) -> None:
    noted = tmp_path / "pid"
    script = f"trap '' TERM; sleep 600 & echo $! > {noted}; wait; sleep 600"
    child = start_process(
        "deaf", ["sh", "-c", script], environment={"PATH": os.defpath}, log_path=tmp_path / "log", reaper=reaper
    )
    until(lambda: noted.exists() and noted.read_text().endswith("\n"))
    assert child.stop(0.2) == -signal.SIGKILL
    until(lambda: is_gone(int(noted.read_text())))
