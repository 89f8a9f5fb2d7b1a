"""The jars of an Apache Kafka broker: fetched once by Maven, kept in the user's cache."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.local.cache import cached_directory
from services.local.processes import ProcessEndedError, run_to_end, start_process
from services.local.reaper import Reaper

KAFKA_FILES = Path(__file__).parents[2] / "deploy" / "kafka"
"""The POM that names the jars, and the broker's log settings; part of a checkout, not of an installed package."""

_OLDEST_JAVA = 17
_FETCH_SECONDS = 600.0
_GO_ON = "go on without it with `--broker embedded`, or with a Kafka elsewhere with `--kafka ADDRESS`"


class KafkaMissingError(Exception):
    """Apache Kafka cannot be run here; the message says what is missing and how to go on."""


@dataclass(frozen=True, slots=True)
class KafkaArtifacts:
    """What a broker is started from: a Java 17 or newer, a directory of jars and the log settings."""

    java: str
    jars: Path
    log_settings: Path


def kafka_artifacts(log_path: Path, reaper: Reaper, environment: Mapping[str, str] = os.environ) -> KafkaArtifacts:
    """The jars that the POM names, fetched (about 45 MB) if this user's cache does not hold them yet.

    `environment` says where Java, Maven and the cache are (JAVA_HOME, PATH, XDG_CACHE_HOME); Maven's output goes to
    `log_path`. Processes that ask at the same time wait for one download; a broken one is never taken for whole.
    Raises KafkaMissingError.
    """
    pom = KAFKA_FILES / "pom.xml"
    if not pom.exists():
        raise KafkaMissingError(f"Apache Kafka is started from a checkout, and {pom} is not there: {_GO_ON}.")
    java = _java(environment)
    jars = cached_directory(
        "kafka", pom.read_bytes(), environment, lambda part: _fetch(pom, part, log_path, reaper, environment)
    )
    return KafkaArtifacts(java, jars, KAFKA_FILES / "log4j2.properties")


def _java(environment: Mapping[str, str]) -> str:
    home, path = environment.get("JAVA_HOME"), environment.get("PATH", os.defpath)
    java = shutil.which("java", path=str(Path(home) / "bin") if home else path)
    if java is None:
        raise KafkaMissingError(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, and there is no `java`: install one, or {_GO_ON}."
        )
    told = _version(java, environment)
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        found = told.splitlines()[0] if told else "of unknown version"
        raise KafkaMissingError(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, and {java} is {found}: install one, or {_GO_ON}."
        )
    return java


def _version(java: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603
        [java, "-version"], capture_output=True, text=True, env=dict(environment), timeout=60, check=False
    )
    return done.stderr


def _fetch(pom: Path, directory: Path, log_path: Path, reaper: Reaper, environment: Mapping[str, str]) -> None:
    """Let Maven copy the jars into a directory."""
    maven = shutil.which("mvn", path=environment.get("PATH", os.defpath))
    if maven is None:
        raise KafkaMissingError(f"Apache Kafka is fetched by Maven, and there is no `mvn`: install Maven, or {_GO_ON}.")
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={directory}"]
    try:
        run_to_end(
            start_process("maven", command, environment=environment, log_path=log_path, reaper=reaper), _FETCH_SECONDS
        )
    except ProcessEndedError as error:
        raise KafkaMissingError(
            f"Maven could not fetch Apache Kafka (its words are in {log_path}): see to its access, or {_GO_ON}."
        ) from error
