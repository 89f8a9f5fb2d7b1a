"""The ACLs let each process do what its part of the contract asks, and nothing more."""

import os
import subprocess
import sys

from services.contracts.topics import (
    CONTROL,
    DELTAS,
    DISPATCHER_GROUP,
    GROUP_TOPICS,
    MESSAGES,
    RESULTS,
    SESSIONS,
    SWEEPS,
    SWEEPS_GROUP,
    TOPICS,
    TRACKER_GROUP,
    dead_letter_topic,
)
from tests.unit.deployment import DEPLOY, SETTINGS

Grant = tuple[str, str, str]
"""Operation, kind of resource, name of the resource."""


def granted() -> dict[str, set[Grant]]:
    """Who gets what, from the arguments with which the script calls Kafka's command."""
    show = f"{sys.executable} -c __import__('sys').stdout.write('\\t'.join(__import__('sys').argv[1:])+chr(10))"
    environment = {"PATH": os.environ["PATH"], "KAFKA_ACLS": show, "PRINCIPAL_PREFIX": "User:chat-"}
    ran = subprocess.run(
        ["sh", str(DEPLOY / "kafka" / "acls.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, set[Grant]] = {}
    for line in ran.stdout.splitlines():
        flag, force, *rest = line.split("\t")
        assert (flag, force) == ("--add", "--force")
        pairs = list(zip(rest[::2], rest[1::2], strict=True))
        options = {name: value for name, value in pairs if name != "--operation"}
        principal = options.pop("--allow-principal").removeprefix("User:chat-")
        pattern = options.pop("--resource-pattern-type", "literal")
        ((kind, name),) = options.items()
        name += "*" if pattern == "prefixed" else ""
        operations = [value for option, value in pairs if option == "--operation"]
        found.setdefault(principal, set()).update((operation, kind[2:], name) for operation in operations)
    return found


def member_of(*groups: str) -> set[Grant]:
    """What a member of consumer groups needs: its topics, its place in the group, its dead-letter topics."""
    return {
        grant
        for group in groups
        for topic in GROUP_TOPICS[group]
        for grant in (
            ("Read", "group", group),
            ("Read", "topic", topic.name),
            ("Write", "topic", dead_letter_topic(topic.name, group).name),
        )
    }


def test_each_process_may_do_what_it_does() -> None:
    found = granted()
    assert set(found) == {*SETTINGS, "operator"}
    assert found["gateway"] == {
        ("Write", "topic", MESSAGES.name),
        ("Write", "topic", RESULTS.name),
        ("Write", "topic", CONTROL.name),
        ("Write", "topic", SWEEPS.name),
        ("Read", "topic", SESSIONS.name),
        ("Read", "topic", DELTAS.name),
    }
    assert found["dispatcher"] == member_of(DISPATCHER_GROUP) | {
        ("Read", "topic", RESULTS.name),
        ("Read", "topic", CONTROL.name),
        ("Write", "topic", RESULTS.name),
        ("Write", "topic", DELTAS.name),
    }
    assert found["tracker"] == member_of(TRACKER_GROUP, SWEEPS_GROUP) | {
        ("Write", "topic", SESSIONS.name),
        ("Write", "topic", MESSAGES.name),
        ("Describe", "group", DISPATCHER_GROUP),
    }
    assert found["sweeper"] == {("Write", "topic", SWEEPS.name)}
    assert found["migrate"] == {("Create", "topic", "chat.*"), ("Describe", "topic", "chat.*")}


def test_an_operator_may_replay_but_not_tell_what_was_committed_or_said() -> None:
    operator = granted()["operator"]
    assert {name for operation, _, name in operator if operation == "Write"} == {
        topic.name for topic in TOPICS if topic not in {SESSIONS, DELTAS}
    }
    assert ("Read", "topic", "chat.*") in operator


def test_it_asks_for_the_command_that_reaches_the_brokers() -> None:
    ran = subprocess.run(
        ["sh", str(DEPLOY / "kafka" / "acls.sh")],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert "Set it to the command" in ran.stderr
