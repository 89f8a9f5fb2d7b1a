"""`make bench-tracing`: what metrics, logs and traces cost a message on its round trip.

Five systems stand side by side and take messages in turn: one that tells nothing of itself, and four that each do one
thing more: count metrics, log lines for every message (LOG_LEVEL=DEBUG), export every trace, or one in ten, to a
collector on the same machine.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from services.local.processes import free_port
from tests.benchmarks.roundtrip import cpu_seconds, load, running_stack, say, wait_until_ended

UNMEASURED = {"PYTHONPATH": str(Path(__file__).parent / "without_metrics")}
SILENT = {"LOG_LEVEL": "ERROR", **UNMEASURED}
ONE_IN_TEN = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=3_000, help="of one round")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    with collecting() as collector_url, contextlib.ExitStack() as running:
        systems = {
            "nothing": SILENT,
            "metrics": {"LOG_LEVEL": "ERROR"},
            "logs": {"LOG_LEVEL": "DEBUG", **UNMEASURED},
            "tracing": {**SILENT, "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url},
            "sampled": {**SILENT, "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url, **ONE_IN_TEN},
        }
        stacks = {name: running.enter_context(running_stack(None, **chosen)) for name, chosen in systems.items()}
        for name, stack in stacks.items():
            say(f"Warming up: {name}")
            one_round(stack, 1_000)
        told: dict[str, list[tuple[float, float]]] = {name: [] for name in stacks}
        for number in range(options.rounds):
            for name in sorted(stacks, reverse=number % 2 == 1):
                told[name].append(one_round(stacks[name], options.messages))
                say(f"Round {number + 1}, {name}: {told[name][-1][0]:.0f} messages/s")
    return report(told)


def report(told: dict[str, list[tuple[float, float]]]) -> int:
    rates = {name: median(rate for rate, _ in rounds) for name, rounds in told.items()}
    costs = {name: median(cost for _, cost in rounds) for name, rounds in told.items()}
    for name in told:
        print(f"{name:<8} {rates[name]:6.0f} messages/s   {costs[name] * 1e6:5.0f} µs of the services' CPU a message")
    for name in ("metrics", "logs", "sampled", "tracing"):
        print(f"{name} cpu ratio {costs[name] / costs['nothing']:.2f}")
    for name in ("metrics", "logs", "sampled", "tracing"):
        print(f"{name} ratio {rates[name] / rates['nothing']:.2f}")
    return 0


def one_round(stack: dict, messages: int) -> tuple[float, float]:
    """Return messages a second, sent and ended, and the CPU seconds of gateway, dispatcher and tracker for each."""
    services = {name: pid for name, pid in stack["processes"].items() if name.startswith(("gateway", "dis", "tracker"))}
    before = cpu_seconds(services)
    gateway = ["--url", stack["gatewayUrl"], "--token", stack["userToken"]]
    size = ["--connections", "64", "--messages", str(messages)]
    sent = load("send", *gateway, *size)
    wait_until_ended(stack)
    used = sum(cpu_seconds(services).values()) - sum(before.values())
    result = load("read", *gateway, *size, told=sent)
    assert not result["lost"], result
    return result["completed"] / result["all_ended_seconds"], used / messages


@contextlib.contextmanager
def collecting() -> Iterator[str]:
    """Yield the address of a collector that takes everything and keeps nothing."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "tests.collector", str(port)]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
