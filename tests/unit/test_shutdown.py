"""A process ends after a bug or a signal, also where something hangs."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys, time
from services.runtime.shutdown import run

async def main(shutdown):
    try:
        shutdown.fail(ValueError("a bug"))
        await shutdown.wait()
    finally:
        {last}

sys.exit(run(main, last_seconds={seconds}))
"""


@pytest.mark.parametrize("last", ["await asyncio.Event().wait()", "time.sleep(60)"])
def test_what_hangs_after_a_bug_is_ended(last: str) -> None:
    ended = _run(PROGRAM.format(last=last, seconds=0.2))
    assert ended.returncode == 1
    assert "A bug stops this process: ValueError('a bug')" in ended.stderr
    assert "Timeout" in ended.stderr, "it says where it hung"


def test_what_ends_by_itself_is_left_alone() -> None:
    ended = _run(PROGRAM.format(last="await asyncio.sleep(0)", seconds=60))
    assert (ended.returncode, "Timeout" in ended.stderr) == (1, False)


STOPPED = """
import asyncio, os, signal, sys, time
from services.runtime.shutdown import run

async def main(shutdown):
    os.kill(os.getpid(), signal.SIGTERM)
    await shutdown.wait()
    {last}

sys.exit(run(main, stop_limit_seconds={seconds}))
"""


@pytest.mark.parametrize(
    ("last", "seconds", "code"),
    [("time.sleep(60)", 0.2, 1), ("await asyncio.sleep(0)", 60, 0), ("time.sleep(0.1)", 0, 0)],
)
def test_what_hangs_after_a_signal_is_ended_in_time(last: str, seconds: float, code: int) -> None:
    ended = _run(STOPPED.format(last=last, seconds=seconds))
    assert (ended.returncode, "Timeout" in ended.stderr) == (code, code == 1)


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
