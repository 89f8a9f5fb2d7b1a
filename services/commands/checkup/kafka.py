"""Looks at Kafka: its topics and how they are kept, and how far the consumer groups are."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError

from services.commands.checkup.findings import Finding, notice, well, wrong
from services.commands.groups import Group, oldest_waiting_ms, read_group
from services.commands.wording import counted, duration, listed
from services.contracts.topics import (
    DEAD_LETTER_TOPICS,
    DISPATCHER_GROUP,
    GROUP_TOPICS,
    SWEEPS_GROUP,
    TOPICS,
    TRACKER_GROUP,
    Topic,
)
from services.runtime.kafka import build_admin, build_reader
from services.runtime.reachability import why_unreachable
from services.runtime.settings import KafkaSettings

_ALL_TOPICS = (*TOPICS, *DEAD_LETTER_TOPICS)
_PROCESS = {DISPATCHER_GROUP: "dispatcher", TRACKER_GROUP: "tracker", SWEEPS_GROUP: "tracker"}
PATIENCE_SECONDS = {DISPATCHER_GROUP: 120.0, TRACKER_GROUP: 30.0, SWEEPS_GROUP: 600.0}
"""How old a group's oldest unfinished record may be: calls are tried again, and sweeps wait for the fold."""
_CONNECT_SECONDS = 3.0
"""After that it is asked what is in the way, which takes 5 s of one broker that is silent."""
_RETENTION, _DURABLE = "retention.ms", "min.insync.replicas"


async def check_kafka(settings: KafkaSettings) -> list[Finding]:
    """Return what is found of the brokers, topics and groups; of an unreachable Kafka that alone."""
    admin = build_admin(settings)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await admin.start()
        return [*await _topics(admin), *await _retention(settings), *await _groups(settings, admin)]
    except (KafkaConnectionError, TimeoutError):
        return [wrong("kafka", await why_unreachable(settings), "start it, or correct what the sentence names.")]
    except KafkaError as error:
        told = f"{settings.kafka_bootstrap_servers} answers with an error ({error!r})."
        return [wrong("kafka", told, "see the broker's log, and what this user may do there.")]
    finally:
        await admin.close()


async def _topics(admin: AIOKafkaAdminClient) -> list[Finding]:
    brokers = len((await admin.describe_cluster())["brokers"])
    existing = set(await admin.list_topics())
    found = [topic for topic in _ALL_TOPICS if topic.name in existing]
    described = await admin.describe_topics([topic.name for topic in found]) if found else []
    partitions = {entry["topic"]: entry["partitions"] for entry in described}
    return [_contract(partitions, brokers), *replication(partitions, brokers)]


def _contract(partitions: dict[str, Sequence[Any]], brokers: int) -> Finding:
    missing = [topic.name for topic in _ALL_TOPICS if not partitions.get(topic.name)]
    if missing:
        told = f"{counted(len(missing), 'topic')} missing: {', '.join(missing)}."
        return wrong("kafka.topics", told, "run `chat-sessions migrate`.", missing=len(missing))
    odd = [topic.name for topic in _ALL_TOPICS if len(partitions[topic.name]) != topic.partitions]
    if odd:
        told = f"{listed(odd)}: another number of partitions than the contract, so conversations lose their order."
        return wrong("kafka.topics", told, "stop everything, and make them anew with `chat-sessions migrate`.")
    count = len(_ALL_TOPICS)
    return well(
        "kafka.topics", f"all {count} are there, on {counted(brokers, 'broker')}.", topics=count, brokers=brokers
    )


def replication(partitions: dict[str, Sequence[Any]], brokers: int) -> Iterable[Finding]:
    """Yield what the topics' replicas are: without a leader, behind, or fewer than these brokers could keep."""
    every = [(f"{topic}/{entry['partition']}", entry) for topic, entries in partitions.items() for entry in entries]
    leaderless = [name for name, entry in every if entry["leader"] < 0]
    behind = [name for name, entry in every if len(entry["isr"]) < len(entry["replicas"])]
    fewest = min((len(entry["replicas"]) for _, entry in every), default=0)
    wanted = min(3, brokers)
    check, figures = "kafka.replication", {"brokers": brokers, "replicas": fewest, "behind": len(behind)}
    if leaderless:
        told = f"{counted(len(leaderless), 'partition')} without a leader, {leaderless[0]} first: nobody can use them."
        yield wrong(check, told, "start the brokers that are away.", **figures)
    elif behind:
        told = f"{counted(len(behind), 'partition')} with fewer replicas in sync than there should be."
        yield wrong(check, told, "start the broker that is away, or see in its log why it is behind.", **figures)
    elif fewest < wanted:
        told = f"a topic has {counted(fewest, 'replica')}, and {brokers} brokers could keep {wanted}."
        yield notice(check, told, "add replicas with Kafka's `kafka-reassign-partitions`.", **figures)
    elif every:
        alone = " (one broker: nothing survives its loss)" if brokers == 1 else ""
        yield well(check, f"every partition has {counted(fewest, 'replica')} in sync{alone}.", **figures)


async def _retention(settings: KafkaSettings) -> list[Finding]:
    # On a connection of its own: the embedded broker ends it, for it does not tell.
    admin, check = build_admin(settings), "kafka.retention"
    try:
        await admin.start()
        wanted = {_RETENTION: None, _DURABLE: None}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name, wanted) for topic in _ALL_TOPICS]
        answers = await admin.describe_configs(resources)
    except KafkaError:
        if not settings.kafka_idempotence:
            return [well(check, "the embedded broker keeps its records in memory, and none across a restart.")]
        told = "this broker does not tell how topics are configured."
        return [notice(check, told, "let this user describe configurations.")]
    finally:
        await admin.close()
    kept = {
        name: int(value)
        for answer in answers
        for _, _, _, name, entries in answer.resources  # type: ignore[attr-defined]
        for key, value, *_ in entries
        if key == _RETENTION
    }
    return [retention(kept)]


def retention(kept_ms: dict[str, int]) -> Finding:
    """Return whether every topic is kept as long as the contract says; -1 is for ever."""
    check = "kafka.retention"
    told = [topic for topic in _ALL_TOPICS if topic.name in kept_ms]
    short = [topic.name for topic in told if 0 <= kept_ms[topic.name] < _milliseconds(topic)]
    long = [topic.name for topic in told if kept_ms[topic.name] < 0 or kept_ms[topic.name] > _milliseconds(topic)]
    if short:
        sentence = f"{listed(short)}: kept for less time than the contract says, so that a long stop loses records."
        return wrong(check, sentence, "set retention.ms as services/contracts/topics.py has it.", short=len(short))
    if long:
        sentence = f"{listed(long)}: kept for longer than the contract says, and so is what users wrote."
        return notice(check, sentence, "set retention.ms as services/contracts/topics.py has it.", long=len(long))
    if not told:
        return notice(check, "nothing is told of how topics are configured.", "let this user describe configurations.")
    return well(check, "every topic is kept as long as the contract says.")


def _milliseconds(topic: Topic) -> int:
    return int(topic.retention.total_seconds() * 1000)


async def _groups(settings: KafkaSettings, admin: AIOKafkaAdminClient) -> list[Finding]:
    reader = build_reader(settings, client_id="chat-sessions-doctor")
    findings = []
    try:
        await reader.start()
        for group_id in GROUP_TOPICS:
            group = await read_group(admin, reader, group_id)
            oldest = await oldest_waiting_ms(reader, group)
            findings.append(lag(group, None if oldest is None else max(0.0, time.time() - oldest / 1000)))
    finally:
        await reader.stop()
    return findings


def lag(group: Group, age_seconds: float | None) -> Finding:
    """Return whether a group has members and keeps up; `age_seconds` is its oldest unfinished record's."""
    check, process = f"kafka.group.{group.group_id}", _PROCESS[group.group_id]
    waiting = f"{counted(group.lag, 'record')} not finished"
    if age_seconds is not None and group.lag:
        waiting += f", the oldest {duration(age_seconds)} old"
    figures = {"members": group.members, "lagRecords": group.lag, "lagSeconds": age_seconds}
    if group.members == 0:
        step = f"start a {process}, or see in its log why it does not join."
        return wrong(check, f"no {process} is in the group; {waiting}.", step, **figures)
    if age_seconds is not None and age_seconds > PATIENCE_SECONDS[group.group_id]:
        return wrong(check, f"it is behind: {waiting}.", _WHY_BEHIND[group.group_id], **figures)
    return well(check, f"{counted(group.members, 'member')}; {waiting}.", **figures)


_WHY_BEHIND = {
    DISPATCHER_GROUP: "see the personas below for one that is slow or paused; else add dispatchers.",
    TRACKER_GROUP: "see the tracker's health and PostgreSQL; else add trackers.",
    SWEEPS_GROUP: "a sweep waits for the fold: see the group session-tracker.",
}
