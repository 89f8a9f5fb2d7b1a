"""A Java that finds the classes of Apache Kafka read and checked: a broker's start takes half its processor time."""

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

from services.local.apache_kafka import BRIEF, start_apache_kafka
from services.local.cache import cached_directory
from services.local.kafka_artifacts import KafkaArtifacts
from services.local.reaper import Reaper
from services.runtime.settings import KafkaSettings
from services.runtime.topics import create_topics

PROGRAM = """#!/bin/sh
exec {java} -XX:SharedArchiveFile="${{0%/bin/java}}/classes.jsa" "-Xlog:cds*=off" "$@"
"""


def home_of_quick_java(artifacts: KafkaArtifacts, reaper: Reaper) -> Path:
    """A JAVA_HOME with it, in this user's cache; made in some 5 seconds where there is none for this Java and jars."""
    version = subprocess.run([artifacts.java, "-version"], capture_output=True, check=True).stderr
    recipe = b"\n".join([artifacts.java.encode(), version, str(artifacts.jars).encode(), PROGRAM.encode()])
    return cached_directory("java", recipe, os.environ, lambda part: _make(part, artifacts, reaper))


def _make(home: Path, artifacts: KafkaArtifacts, reaper: Reaper) -> None:
    """Have a broker write down, as it ends, which classes it has used. One that could not is no harm: Java reads on."""
    options = (*BRIEF, f"-XX:ArchiveClassesAtExit={home / 'classes.jsa'}")
    with tempfile.TemporaryDirectory() as place:
        kafka = start_apache_kafka(Path(place), Path(place), reaper, artifacts, java_options=options)
        try:
            settings = KafkaSettings(kafka_bootstrap_servers=kafka.bootstrap, kafka_replication_factor=1)
            asyncio.run(create_topics(settings))
        finally:
            kafka.stop()
    program = home / "bin" / "java"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(java=artifacts.java))
    program.chmod(0o755)
