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

import httpx
import psutil

from services.local.processes import free_port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=Path, help="stack.json of a running `chat-sessions up`")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with running_stack(options.stack) as stack:
        gateway = ["--url", stack["gatewayUrl"], "--token", stack["userToken"]]
        size = ["--connections", str(options.connections), "--messages", str(options.messages)]
        say("Warming up")
        load("read", *gateway, told=load("send", *gateway, "--messages", "1000"))
        say(f"Calling the stub n8n directly, {options.messages:,} times over {options.connections} connections")
        direct = load("direct", "--url", f"{stack['n8nUrl']}/webhook/echo", *size)
        say(f"Sending {options.messages:,} messages")
        before = cpu_seconds(stack["processes"])
        sent = load("send", *gateway, *size)
        wait_until_ended(stack)
        between = cpu_seconds(stack["processes"])
        say("Reading every session back")
        result = load("read", *gateway, *size, told=sent)
        after = cpu_seconds(stack["processes"])
    used = {name: (between[name] - before[name], after[name] - between[name]) for name in after}
    return report(sent, result, options.messages / direct["seconds"], used)


def report(sent: dict, result: dict, direct_per_second: float, used: dict[str, tuple[float, float]]) -> int:
    messages = len(sent["accepted"])
    completed_per_second = result["completed"] / result["all_ended_seconds"]
    print(f"accepted       {messages / sent['seconds']:8.0f} messages/s")
    print(f"completed      {completed_per_second:8.0f} messages/s, {result['completed']:,} of {messages:,}")
    print(f"read back      {messages / result['read_seconds']:8.0f} sessions/s")
    print(f"n8n directly   {direct_per_second:8.0f} calls/s")
    print("accepted → COMPLETED  p50 {p50_ms:.0f} ms  p95 {p95_ms:.0f} ms  p99 {p99_ms:.0f} ms".format(**result))
    print(f"lost {result['lost']}  double-ended {result['double_ended']}  refused {sent['refused']}")
    print(f"{'CPU a message':<15} {'sending':>10} {'reading':>10}")
    for name, (sending, reading) in sorted(used.items(), key=lambda item: -item[1][0]):
        print(f"  {name:<13} {sending / messages * 1000:7.3f} ms {reading / messages * 1000:7.3f} ms")
    print(f"roundtrip ratio {completed_per_second / direct_per_second:.2f}")
    return 1 if result["lost"] or result["double_ended"] or sent["refused"] else 0


def load(phase: str, *options: str, told: dict | None = None) -> dict:
    """Run one phase of the load generator; `told` is what an earlier phase told."""
    command = [sys.executable, "-m", "tests.benchmarks.load", phase, *options]
    told_bytes = None if told is None else json.dumps(told).encode()
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, input=told_bytes, timeout=180).stdout)


def wait_until_ended(stack: dict) -> None:
    """Wait until no session of the user is ACTIVE."""
    headers = {"authorization": f"Bearer {stack['userToken']}"}
    give_up = time.monotonic() + 120
    with httpx.Client(base_url=stack["gatewayUrl"], headers=headers, trust_env=False) as client:
        while client.get("/api/chat-sessions/stats").json()["active"] and time.monotonic() < give_up:
            time.sleep(0.2)


def cpu_seconds(processes: dict[str, int]) -> dict[str, float]:
    """Return the CPU seconds that each process and its children, ended ones too, have used so far."""
    totals = {}
    for name, pid in processes.items():
        process = psutil.Process(pid)
        times = [process.cpu_times(), *(child.cpu_times() for child in process.children(recursive=True))]
        totals[name] = sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system
    return totals


@contextmanager
def running_stack(path: Path | None, **settings: str) -> Iterator[dict]:
    """Yield the stack.json of the given stack, or of one with these settings that runs until the block ends."""
    if path is not None:
        yield json.loads(path.read_text())
        return
    with tempfile.TemporaryDirectory(prefix="chat-sessions-bench-") as directory:
        Path(directory).chmod(0o711)  # PostgreSQL's own user has to come in, else root's cluster stays behind elsewhere
        environment = {**os.environ, "RATE_LIMIT_MESSAGES": "0", "RATE_LIMIT_READS": "0", **settings}
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
