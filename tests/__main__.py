"""Runs every test on the embedded broker and, beside them, those that need a broker on Apache Kafka, where that is.

`python -m tests` ends with exit code 1 if a test failed on either. What each run says is told line by line, behind the
broker's name.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from tests.engine import home_of_kafkas_java

PYTEST = (sys.executable, "-u", "-m", "pytest", "--no-loadscope-reorder")
EMBEDDED = ("-n", "6")
ON_KAFKA = ("-n", "3", "tests/e2e", "tests/integration")


def run(engine: str, arguments: tuple[str, ...], settings: Mapping[str, str]) -> int:
    """Run pytest on one broker, with `settings` in its environment; return its exit code."""
    environment = {**os.environ, **settings, "TEST_ENGINE": engine}
    # Where nothing compiled is kept, each worker compiles every test anew, and each process all of `services`.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen([*PYTEST, *arguments], env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(f"{engine:8} | {line}", end="", flush=True)
    return running.returncode


def main() -> int:
    """Run both at once: tests mostly wait, so what works fills the time of what waits."""
    runs, settings = [("embedded", EMBEDDED)], {}
    if java := home_of_kafkas_java():
        runs.append(("kafka", ON_KAFKA))
        settings["JAVA_HOME"] = str(java)
    with ThreadPoolExecutor(len(runs)) as side_by_side:
        codes = list(side_by_side.map(lambda one: run(*one, settings), runs))
    for (engine, _), code in zip(runs, codes, strict=True):
        print(f"{engine:8} | {'passed' if code == 0 else f'FAILED, exit code {code}'}")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
