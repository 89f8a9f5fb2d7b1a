"""What `chat-sessions doctor` makes of what it reads: plain calls, figures in, finding out."""

import json
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from aiokafka import TopicPartition

from services.commands.checkup import kafka, locks, measured, objectives, personas, postgres, processes
from services.commands.checkup.findings import Finding, Level, all_well, document, line, notice, well, wrong
from services.commands.checkup.locks import Blocker
from services.commands.checkup.objectives import Outcomes
from services.commands.checkup.personas import PersonaState
from services.commands.groups import Group, Place
from services.contracts.topics import DEAD_LETTER_TOPICS, DISPATCHER_GROUP, MESSAGES, TOPICS, TRACKER_GROUP
from tests.monitoring import ALERTS

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEPT = {topic.name: int(topic.retention.total_seconds() * 1000) for topic in (*TOPICS, *DEAD_LETTER_TOPICS)}


def group(members: int = 1, committed: int | None = 5, end: int = 5, group_id: str = DISPATCHER_GROUP) -> Group:
    return Group(group_id, "Stable", members, {TopicPartition(MESSAGES.name, 0): Place(0, committed, end)})


def test_a_document_is_as_it_is_described() -> None:
    findings = [wrong("a.b", "it is so.", "do this.", members=0), notice("c", "perhaps.", "look."), well("d", "good.")]
    assert json.loads(json.dumps(document(findings))) == {
        "well": False,
        "findings": [
            {"check": "a.b", "level": "wrong", "told": "it is so.", "next": "do this.", "figures": {"members": 0}},
            {"check": "c", "level": "notice", "told": "perhaps.", "next": "look.", "figures": {}},
            {"check": "d", "level": "well", "told": "good.", "next": None, "figures": {}},
        ],
    }
    assert [line(finding) for finding in findings] == [
        "✗ a.b: it is so. → do this.",
        "! c: perhaps. → look.",
        "✓ d: good.",
    ]
    assert (all_well(findings), all_well(findings[1:])) == (False, True)


@pytest.mark.parametrize(
    ("found", "age", "level", "told"),
    [
        (group(), None, Level.WELL, "1 member; 0 records not finished."),
        (group(committed=None), 3.0, Level.WELL, "1 member; 5 records not finished, the oldest 3.0 s old."),
        (group(committed=2), 121.0, Level.WRONG, "it is behind: 3 records not finished, the oldest 2 min old."),
        (group(members=0), None, Level.WRONG, "no dispatcher is in the group; 0 records not finished."),
        (
            group(committed=2, group_id=TRACKER_GROUP),
            31.0,
            Level.WRONG,
            "it is behind: 3 records not finished, the oldest 31 s old.",
        ),
    ],
)
def test_a_group_keeps_up_or_not(found: Group, age: float | None, level: Level, told: str) -> None:
    finding = kafka.lag(found, age)
    assert (finding.level, finding.told) == (level, told)
    assert (finding.next_step is None) == (level is Level.WELL)


def test_what_a_group_committed_and_kafka_dropped_is_not_waited_for() -> None:
    assert Place(beginning=10, committed=4, end=12).lag == 2


@pytest.mark.parametrize(
    ("partition", "brokers", "level"),
    [
        ({"leader": 1, "replicas": [1, 2, 3], "isr": [1, 2, 3]}, 3, Level.WELL),
        ({"leader": 1, "replicas": [1], "isr": [1]}, 1, Level.WELL),
        ({"leader": 1, "replicas": [1], "isr": [1]}, 3, Level.NOTICE),
        ({"leader": 1, "replicas": [1, 2, 3], "isr": [1, 3]}, 3, Level.WRONG),
        ({"leader": -1, "replicas": [1], "isr": [1]}, 1, Level.WRONG),
    ],
)
def test_replicas(partition: dict[str, object], brokers: int, level: Level) -> None:
    (finding,) = kafka.replication({"t": [{"partition": 0, **partition}]}, brokers)
    assert finding.level is level


@pytest.mark.parametrize(
    ("kept", "level"),
    [
        (KEPT, Level.WELL),
        ({**KEPT, MESSAGES.name: KEPT[MESSAGES.name] - 1}, Level.WRONG),
        ({**KEPT, MESSAGES.name: -1}, Level.NOTICE),
        ({}, Level.NOTICE),
    ],
)
def test_retention(kept: dict[str, int], level: Level) -> None:
    assert kafka.retention(kept).level is level


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (postgres.fold(24, 2.0, 1.0), Level.WELL),
        (postgres.fold(24, 31.0, 1.0), Level.WRONG),
        (postgres.fold(23, 40.0, 31.0), Level.WRONG),
        (postgres.fold(2, 40.0, 1.0), Level.NOTICE),
        (postgres.fold(0, None, None), Level.WRONG),
        (postgres.drift(0, 20.0, 9_999.0), Level.WELL),
        (postgres.drift(0, None, 10.0), Level.WELL),
        (postgres.drift(0, None, None), Level.WELL),
        (postgres.drift(0, None, 400.0), Level.WRONG),
        (postgres.drift(0, 400.0, 9_999.0), Level.WRONG),
        (postgres.drift(2, 20.0, 9_999.0), Level.WRONG),
        (postgres.sweeps(None, NOW, timedelta(hours=6)), Level.NOTICE),
        (postgres.sweeps(NOW - timedelta(hours=6), NOW, timedelta(hours=6)), Level.WELL),
        (postgres.sweeps(NOW - timedelta(hours=7), NOW, timedelta(hours=6)), Level.WRONG),
        (postgres.sweeps(NOW - timedelta(seconds=100), NOW, timedelta(seconds=60)), Level.WRONG),
        (postgres.room(["a_2026_11", "a_2026_12"], {"a_2026_11", "a_2026_12"}, this_month=["a_2026_11"]), Level.WELL),
        (postgres.room(["a_2026_11", "a_2026_12"], {"a_2026_11"}, this_month=["a_2026_11"]), Level.NOTICE),
        (postgres.room(["a_2026_11", "a_2026_12"], {"a_2026_12"}, this_month=["a_2026_11"]), Level.WRONG),
    ],
)
def test_what_the_tracker_keeps(finding: Finding, level: Level) -> None:
    assert finding.level is level, finding


def test_statistics_are_right_for_no_longer_than_there_are_any() -> None:
    assert postgres.drift(0, 20.0, 60.0).told == "statistics were right, as far as compared, for 60 s."
    assert postgres.drift(0, 20.0, 999_999.0).told == "statistics were right, as far as compared, for 24 h."
    assert postgres.drift(0, None, 10.0).told == "there was nothing to compare statistics with yet."


def test_a_sweep_is_told_by_the_time_that_it_was_asked_for() -> None:
    told = postgres.sweeps(NOW - timedelta(hours=2), NOW, timedelta(hours=6)).told
    assert told == "the scheduled sweep of 2026-11-23 10:00 UTC is done."


def test_a_clock_is_off_only_by_what_reading_it_does_not_explain() -> None:
    second = timedelta(seconds=1)
    assert postgres.clock("x", NOW, NOW - second, NOW + second).figures == {"apartSeconds": 0.0}
    assert postgres.clock("x", NOW - 6 * second, NOW, NOW, resolution=1.0).level is Level.WELL
    behind = postgres.clock("x", NOW - 7 * second, NOW, NOW, resolution=1.0)
    assert (behind.level, behind.told) == (Level.WRONG, "6.0 s behind this machine's.")
    assert postgres.clock("x", NOW + 6 * second, NOW, NOW).told == "6.0 s ahead of this machine's."


def test_a_persona_is_told_by_its_last_answers() -> None:
    ago = timedelta(minutes=3)
    fine = PersonaState("fine", False, completed_at=NOW, failed_at=NOW - ago, failure_kind="timeout")
    failing = PersonaState("failing", False, completed_at=NOW - 2 * ago, failed_at=NOW - ago, failure_kind="timeout")
    found = personas.personas([fine, PersonaState("new", False), PersonaState("held", True), failing], NOW)
    assert [(finding.check, finding.level) for finding in found] == [
        ("personas.held", Level.NOTICE),
        ("personas.failing", Level.NOTICE),
        ("personas", Level.WELL),
    ]
    assert found[1].told == "its last answer, 3 min ago, was a failure (timeout); its last success: 6 min ago."
    assert found[2].told == "2 personas are well; 1 of them replied within a day."
    assert personas.personas([], NOW)[0].level is Level.NOTICE
    url = "http://user:pass@n8n.example:5678/webhook/secret"
    (gone,) = personas.personas([PersonaState("a", False, None, NOW - ago, "connect", url)], NOW)
    assert "was a failure (connect at n8n.example:5678);" in gone.told
    assert "`chat-sessions persona get a`, then `persona set a`" in str(gone.next_step)
    assert gone.figures["lastFailedAt"] == "2026-11-23T11:57:00Z"


def test_a_process_tells_its_own_reasons_and_breakers() -> None:
    problems = {"status": "not-ready", "problems": {"kafka": "It is away.", "sweeps": "None yet."}}
    told = processes.health("processes.x", "http://x", httpx.Response(503, json=problems))
    assert (told.level, told.told) == (Level.WRONG, "http://x is not ready: kafka: It is away; sweeps: None yet.")
    assert "no answer of this system" in processes.health("processes.x", "http://x", httpx.Response(404)).told
    metrics = 'chat_webhook_breaker_state{persona="a"} 2.0\nchat_webhook_breaker_state{persona="b"} 0.0\n'
    header = "# HELP chat_webhook_breaker_state x\n# TYPE chat_webhook_breaker_state gauge\n"
    attempts = "# HELP chat_webhook_attempts_total x\n# TYPE chat_webhook_attempts_total counter\n"
    for outcome, count in (("replied", 99), ("connect", 3), ("timeout", 12)):
        attempts += f'chat_webhook_attempts_total{{persona="a",outcome="{outcome}"}} {count}\n'
    (held,) = measured.measured("x", header + metrics + attempts, NOW)
    assert (held.check, "since that dispatcher's start: timeout 12, connect 3)." in held.told) == (
        "personas.a.breaker",
        True,
    )
    assert str(held.next_step).startswith("look for its execution, or raise the persona's timeoutSeconds; the breaker")
    (held,) = measured.measured("x", header + metrics, NOW)
    assert held.told.endswith(" since too many in a row failed.")


def test_a_process_that_hangs_is_told_from_one_that_is_not_there() -> None:
    hangs = processes.silence("http://x", httpx.ReadTimeout(""), 7)
    told = "http://x takes connections and answers nothing within 5 s (ReadTimeout): it hangs"
    assert hangs == (told, "end it with `kill -9 7`, so that it is started again")
    assert "kill -9 PID" in processes.silence("http://x", httpx.ReadTimeout(""), None)[1]
    gone = ("http://x is out of reach (ConnectError)", "start it, or see in its log why it ended")
    assert processes.silence("http://x", httpx.ConnectError(""), 7) == gone


async def test_processes_that_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SECONDS", 0.1)
    # It takes connections, as the kernel does for a process that stands still, and nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        urls = {"dispatcher": f"http://127.0.0.1:{hanging.getsockname()[1]}", "dispatcher-2": "http://127.0.0.1:1"}
        found = await processes.find_silent(urls, {"dispatcher": 7})
    assert [(silent.name, silent.step[:10]) for silent in found] == [
        ("dispatcher", "end it wit"),
        ("dispatcher-2", "start it, "),
    ]


def test_a_process_tells_what_will_keep_it_from_kafka_and_from_verifying() -> None:
    def ends(**days: float) -> Finding:
        at = [(setting, (NOW + timedelta(days=left)).timestamp()) for setting, left in days.items()]
        (finding,) = measured.certificates("x", at, NOW)
        return finding

    assert list(measured.certificates("x", [], NOW)) == []
    assert (ends(CA=15, CERT=90).level, ends(CA=15, CERT=90).figures["setting"]) == (Level.WELL, "CA")
    soon = ends(CA=90, CERT=3)
    told = "the certificate of CERT ends in 3 days, and Kafka cannot be reached with it then."
    assert (soon.check, soon.level, soon.told) == ("certificates.x", Level.NOTICE, told)
    assert (ends(CERT=-1).level, ends(CERT=-1).told[:38]) == (Level.WRONG, "the certificate of CERT ended 24 h ago")
    assert [finding.level for finding in measured.signing_keys("x", [("", 0.0)])] == [Level.NOTICE]
    assert list(measured.signing_keys("x", [("", 1.0)])) == []
    heard = list(measured.silence("x", [("a", 1.0), ("b", 31.0)]))
    assert [(finding.check, finding.figures["group"]) for finding in heard] == [("processes.x.kafka", "b")]


def test_the_personas_that_fail_and_are_slow_are_named() -> None:
    failing = [Outcomes("persona:a", failed=14, kinds=["connect", "timeout"]), Outcomes("persona:b b", failed=1)]
    found = objectives.success(Outcomes("global", completed=84, failed=17), failing, timed_out=1)
    told = "a 14 (connect, timeout), 'b b' 1 (of unknown kind), 1 timed out and 2 more."
    assert found.told == f"of 102 sessions within an hour 18 (18%) ended badly: {told}"
    assert found.level is Level.WRONG
    assert found.next_step == "a: check that n8n runs and that the URL is right."
    assert objectives.success(Outcomes("global", completed=90, failed=10), failing, 0).level is Level.NOTICE
    assert objectives.success(Outcomes("global", completed=99, failed=1), failing, 0).level is Level.WELL
    assert objectives.success(Outcomes("global", failed=10), failing, 0).level is Level.WELL, "too few to tell"
    assert "nothing came back" in str(objectives.success(Outcomes("global", completed=9), [], 9).next_step)
    failing = [
        Outcomes("persona:ecco", failed=3, kinds=["unknown-persona"]),
        Outcomes("persona:b", failed=2, kinds=["workflow-error"]),
        Outcomes("persona:c", failed=2, kinds=["workflow-error"]),
    ]
    found = objectives.success(Outcomes("global", completed=84, failed=7), failing, 0)
    assert found.next_step == "ecco: make it with `chat-sessions persona set`; b and c: open its execution in n8n."
    failing[1] = replace(failing[1], is_deleted=True)
    found = objectives.success(Outcomes("global", completed=84, failed=7), failing, 0)
    assert found.next_step == "ecco: make it with `chat-sessions persona set`; c: open its execution in n8n."
    found = objectives.success(Outcomes("global", completed=84, failed=7), failing[1:2], 0)
    assert found.next_step == "nothing: the personas that failed are deleted."
    failing = [failing[0], replace(failing[2], answers_again=True)]
    found = objectives.success(Outcomes("global", completed=84, failed=7), failing, 0)
    assert found.next_step == (
        "ecco: make it with `chat-sessions persona set`; c answers again: nothing but to retry what failed."
    )
    assert objectives.success(Outcomes("global", completed=1), [], 0).told == (
        "of 1 session within an hour none ended badly."
    )
    assert objectives.success(Outcomes("global"), [], 0).told == "no session ended within an hour."
    assert objectives.response(Outcomes("global"), [], None).told == "there was no reply within an hour."
    slow = [Outcomes("persona:a", slow=6)]
    found = objectives.response(Outcomes("global", completed=100, slow=6), slow, 0.97)
    told = "of 100 replies within an hour 6 took longer than 10 s: a 6; 97% of a's time went by in its webhook."
    assert (found.level, found.told) == (Level.NOTICE, told)
    held = objectives.response(Outcomes("global", completed=100, slow=80), slow, 0.2)
    assert (held.level, str(held.next_step)[:19]) == (Level.WRONG, "messages wait befor")
    paused = objectives.response(Outcomes("global", completed=100, slow=80), [replace(slow[0], was_paused=True)], 0.2)
    assert str(paused.next_step).startswith("a was paused within the hour, and waiting for the end of that counts; ")
    assert objectives.response(Outcomes("global", completed=100, slow=5), slow, None).level is Level.WELL
    alerting = ALERTS.read_text()
    for limit in (
        f'le="{objectives.SLOW_MS / 1000}"',
        f"> {objectives.FAST} * {objectives.MAY_FAIL} ",
        f"> {objectives.FAST} * {objectives.MAY_BE_SLOW} ",
    ):
        assert limit in alerting, "doctor and the alerts have other objectives"


def test_who_holds_a_lock_is_told_without_values() -> None:
    holder = Blocker(7, "idle in transaction", 20.0, "LOCK TABLE fold_progress IN x", 2, 12.0, 'UPDATE  "t" SET a=1')
    found = locks.locks([holder, holder])
    assert found.told == (
        "process 7 of PostgreSQL (idle in transaction, its transaction open for 20 s, last LOCK TABLE fold_progress) "
        'holds up 2 others, for 12 s (UPDATE "t"). Beside it: 1 more.'
    )
    assert (found.level, found.figures["pid"]) == (Level.WRONG, 7)
    assert locks.locks([Blocker(7, None, None, None, 1, 1.9, None)]).level is Level.WELL
    statements = ["SELECT 'secret'", "insert into a.b values ('secret')", "/* secret */ SELECT 1", "", None]
    kinds = ["SELECT", "insert into a", "a statement that is not shown"]
    assert [locks.kind(statement) for statement in statements] == [*kinds, kinds[-1], kinds[-1]]
