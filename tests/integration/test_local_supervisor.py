"""A process that dies comes back, and one that keeps dying is given up."""

import os
import time
from pathlib import Path

import psutil
import pytest

from services.local.reaper import Reaper, is_alive
from services.local.supervisor import KeepsDyingError, Program, Supervisor


def program(script: str) -> Program:
    return Program("worker", ["sh", "-c", script], {"PATH": os.defpath}, "http://127.0.0.1:9")


def test_a_killed_process_is_started_again_and_told_of(tmp_path: Path, reaper: Reaper) -> None:
    said: list[str] = []
    supervisor = Supervisor(tmp_path, reaper, said.append)
    supervisor.start(program("sleep 600"))
    first = supervisor.pids()["worker"]
    psutil.Process(first).kill()
    give_up = time.monotonic() + 10
    while supervisor.pids().get("worker", first) == first:
        assert time.monotonic() < give_up
        supervisor.look_after(time.monotonic())
        time.sleep(0.01)
    second = supervisor.pids()["worker"]
    assert "worker was killed (SIGKILL); it starts again" in said[0]
    assert str(second) in said[1]
    supervisor.stop(["worker"], 5)
    assert supervisor.pids() == {}
    assert not psutil.pid_exists(second)


def test_one_that_keeps_dying_is_given_up_with_its_last_lines(tmp_path: Path, reaper: Reaper) -> None:
    supervisor = Supervisor(tmp_path, reaper, lambda _: None)
    supervisor.start(program("echo I cannot go on; exit 3"))
    # Time is an argument: ten seconds a look bring five deaths into a minute without waiting for the back-off.
    now = 0.0

    def look_until_given_up() -> None:
        nonlocal now
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            if not any(is_alive(pid) for pid in supervisor.pids().values()):
                supervisor.look_after(now)
                now += 5

    with pytest.raises(KeepsDyingError, match=r"(?s)worker ended 5 times within a minute.*I cannot go on"):
        look_until_given_up()
    assert supervisor.pids() == {}
