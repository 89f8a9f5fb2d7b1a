"""Kafka's jars are fetched once and whole, or the caller is told what is missing. Maven and Java are stand-ins here."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.local.kafka_artifacts import KafkaArtifacts, KafkaMissingError, kafka_artifacts
from services.local.reaper import Reaper

JAVA_17 = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
# Notes each call, and puts two jars into the directory that it is given, the second after the first.
MAVEN = 'echo "$@" >> "$0.calls"; for last; do :; done; d="${last#*=}"; : > "$d/a.jar"; sleep 0.2; : > "$d/b.jar"'


class Machine:
    """A machine with stand-ins for Java and Maven, and a cache of its own."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.reaper = reaper
        self.programs = directory / "bin"
        self.programs.mkdir()
        (self.programs / "sleep").symlink_to("/bin/sleep")

    def install(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PATH": str(self.programs), "XDG_CACHE_HOME": str(self.directory / "cache")}

    def ask(self) -> KafkaArtifacts:
        return kafka_artifacts(self.directory / "maven.log", self.reaper, self.environment)

    def calls(self) -> int:
        return len((self.programs / "mvn.calls").read_text().splitlines())

    def cached(self) -> list[str]:
        return [path.name for path in (self.directory / "cache" / "chat-sessions").iterdir() if path.is_dir()]


@pytest.fixture
def machine(tmp_path: Path, reaper: Reaper) -> Machine:
    """A machine with a good Java and a good Maven."""
    machine = Machine(tmp_path, reaper)
    machine.install("java", JAVA_17)
    machine.install("mvn", MAVEN)
    return machine


def test_the_jars_are_fetched_once_and_then_found_without_maven(machine: Machine) -> None:
    first = machine.ask()
    assert sorted(path.name for path in first.jars.iterdir()) == ["a.jar", "b.jar"]
    (machine.programs / "mvn").unlink()
    assert machine.ask() == first
    assert machine.calls() == 1
    assert first.java == str(machine.programs / "java")


def test_two_that_ask_at_once_get_one_download(machine: Machine) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: machine.ask(), range(2))
    assert first == second
    assert machine.calls() == 1


def test_half_a_download_is_not_taken_for_a_whole_one(machine: Machine) -> None:
    machine.install("mvn", MAVEN.replace("sleep 0.2", "exit 1"))
    with pytest.raises(KafkaMissingError, match="Maven could not fetch Apache Kafka"):
        machine.ask()
    assert machine.cached() == []
    machine.install("mvn", MAVEN)
    # What a killed download left behind.
    remains = machine.ask().jars.rename(machine.directory / "cache" / "chat-sessions" / "whole")
    broken = remains.with_name(f"{machine.ask().jars.name}.part-killed")
    remains.rename(broken)
    machine.ask().jars.rename(machine.directory / "gone")
    assert len(list(machine.ask().jars.iterdir())) == 2
    assert not broken.exists()


@pytest.mark.parametrize(
    ("name", "script", "told"),
    [
        ("java", None, "there is no `java`"),
        ("java", JAVA_17.replace("17.0.15", "11.0.2"), 'version "11.0.2"'),
        ("java", JAVA_17.replace("17.0.15", "1.8.0_392"), "needs Java 17 or newer"),
        ("mvn", None, "there is no `mvn`"),
        ("mvn", "exit 1", "Maven could not fetch Apache Kafka"),
    ],
)
def test_what_is_missing_is_one_line_that_says_how_to_go_on(
    name: str, script: str | None, told: str, machine: Machine
) -> None:
    (machine.programs / name).unlink()
    if script is not None:
        machine.install(name, script)
    with pytest.raises(KafkaMissingError) as missing:
        machine.ask()
    (line,) = str(missing.value).splitlines()
    assert told in line
    assert "`--broker embedded`" in line
    assert "`--kafka ADDRESS`" in line
