"""`make bench-roundtrip`: messages through the whole running system, beside calling the stub n8n directly.

Starts a stack of its own in a temporary directory (or takes `--stack stack.json`), sends N messages to the persona
`echo` over HTTP, reads every session back, and shows where the CPU time went, process by process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from services.local.processes import free_port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=Path, help="stack.json of a running `chat-sessions up`")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with running_stack(options.stack) as stack:
        say("Warming up")
        load(stack, 1_000, options.connections)
        say(f"Calling the stub n8n directly, {options.messages:,} times over {options.connections} connections")
        direct = load(stack, options.messages, options.connections, direct=f"{stack['n8nUrl']}/webhook/echo")
        say(f"Sending {options.messages:,} messages and reading every session back")
        before = cpu_seconds(stack["processes"])
        result = load(stack, options.messages, options.connections)
        used = {name: seconds - before[name] for name, seconds in cpu_seconds(stack["processes"]).items()}
    return report(result, direct, used, options.messages)


def report(result: dict, direct: dict, used: dict[str, float], messages: int) -> int:
    completed_per_second = result["completed"] / result["all_ended_seconds"]
    direct_per_second = messages / direct["seconds"]
    print(f"accepted      {result['accepted'] / result['send_seconds']:8.0f} messages/s")
    print(f"completed     {completed_per_second:8.0f} messages/s, all {result['completed']:,} of them")
    print(f"n8n directly  {direct_per_second:8.0f} calls/s")
    print("accepted → COMPLETED  p50 {p50_ms:.0f} ms  p95 {p95_ms:.0f} ms  p99 {p99_ms:.0f} ms".format(**result))
    print(f"lost {result['lost']}  double-ended {result['double_ended']}  refused {result['refused']}")
    print("CPU a message (reading back included):")
    for name, seconds in sorted(used.items(), key=lambda item: -item[1]):
        print(f"  {name:<14} {seconds / messages * 1000:6.3f} ms")
    print(f"roundtrip ratio {completed_per_second / direct_per_second:.2f}")
    return 1 if result["lost"] or result["double_ended"] or result["refused"] else 0


def load(stack: dict, messages: int, connections: int, direct: str | None = None) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.load", "--gateway", stack["gatewayUrl"]]
    command += ["--token", stack["userToken"], "--messages", str(messages), "--connections", str(connections)]
    if direct:
        command += ["--direct", direct]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=180).stdout)


def cpu_seconds(processes: dict[str, int]) -> dict[str, float]:
    """Return the CPU seconds that each process and its children, ended ones too, have used so far."""
    totals = {}
    for name, pid in processes.items():
        process = psutil.Process(pid)
        times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
        totals[name] = sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system
    return totals


@contextmanager
def running_stack(path: Path | None) -> Iterator[dict]:
    """Yield the stack.json of the given stack, or of one that runs until the block ends."""
    if path is not None:
        yield json.loads(path.read_text())
        return
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as directory:
        environment = {**os.environ, "RATE_LIMIT_MESSAGES": "0", "RATE_LIMIT_READS": "0"}
        command = [sys.executable, "-m", "services.cli", "up", "--data-dir", directory, "--port", str(free_port())]
        say("Starting the whole system")
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                yield wait_for_stack(Path(directory) / "stack.json", process)
            finally:
                process.terminate()
                process.wait(60)


def wait_for_stack(path: Path, process: subprocess.Popen) -> dict:
    give_up = time.monotonic() + 90
    while not path.exists():
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit("The stack did not start; run `chat-sessions up` to see why.")
        time.sleep(0.1)
    return json.loads(path.read_text())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
