"""The pure half of `up`: when to start again, what to start, with which environment."""

import os
import sys
from pathlib import Path

from services.local.greeting import greeting
from services.local.processes import how_it_ended
from services.local.restarts import GiveUp, StartAgain, after_death
from services.local.stack_options import (
    Addresses,
    StackOptions,
    service_environment,
    service_names,
    service_program,
)
from services.local.typed import as_typed
from services.local.up import in_terms_of


def test_restarts_back_off_and_the_fifth_death_within_a_minute_is_the_last() -> None:
    deaths: list[float] = []
    delays = []
    for death in (0.0, 1.0, 2.0, 3.0):
        deaths.append(death)
        decision = after_death(deaths, death, -9)
        assert isinstance(decision, StartAgain)
        delays.append(decision.delay_seconds)
    assert delays == [0.25, 0.5, 1.0, 2.0]
    assert after_death([*deaths, 59.9], 59.9, 1) == GiveUp("ended 5 times within a minute")
    assert after_death([*deaths, 60.1], 60.1, 1) == StartAgain(2.0)


def test_a_process_that_refuses_its_settings_is_not_started_again() -> None:
    assert isinstance(after_death([0.0], 0.0, 2), GiveUp)


def test_the_first_process_of_a_kind_bears_the_plain_name() -> None:
    options = StackOptions(3000, Path("data"), dispatchers=2, trackers=3)
    assert service_names(options) == {
        "tracker": "tracker",
        "dispatcher": "dispatcher",
        "sweeper": "sweeper",
        "gateway": "gateway",
        "tracker-2": "tracker",
        "tracker-3": "tracker",
        "dispatcher-2": "dispatcher",
    }


def environment(outer: dict[str, str], **broker_settings: str) -> dict[str, str]:
    return service_environment(
        outer,
        Addresses("http://127.0.0.1:3000", "127.0.0.1:9", "postgresql://x", "http://127.0.0.1:5"),
        broker_settings=broker_settings,
        jwt_secret="secret",
        persona_secrets_key="key",
        user_hash_key="h" * 32,
    )


def test_the_caller_s_environment_is_passed_on_with_the_stack_s_on_top() -> None:
    outer = {
        "RATE_LIMIT_MESSAGES": "0",
        "DATABASE_URL": "elsewhere",
        "EGRESS_ALLOW_CIDRS": "10.0.0.0/8",
        "JWT_JWKS_URL": "https://keys.example",
        "LOG_FORMAT": "json",
    }
    made = environment(outer, KAFKA_IDEMPOTENCE="false")
    assert (made["RATE_LIMIT_MESSAGES"], made["LOG_FORMAT"]) == ("0", "json")
    assert made["DATABASE_URL"] == "postgresql://x"
    assert made["EGRESS_ALLOW_CIDRS"] == "10.0.0.0/8,127.0.0.0/8,::1/128"
    assert made["KAFKA_IDEMPOTENCE"] == "false"
    assert "JWT_JWKS_URL" not in made
    assert made["CALLBACK_BASE_URL"] == "http://127.0.0.1:3000"
    assert environment({"CALLBACK_BASE_URL": "https://tunnel.example"})["CALLBACK_BASE_URL"] == "https://tunnel.example"
    assert environment({})["EGRESS_ALLOW_CIDRS"] == "127.0.0.0/8,::1/128"
    assert "KAFKA_IDEMPOTENCE" not in environment({})


def test_only_the_gateway_listens_for_users() -> None:
    gateway = service_program("gateway", "gateway", {}, 3000)
    tracker = service_program("tracker-2", "tracker", {}, 9000)
    assert gateway.environment == {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": "3000"}
    assert tracker.environment == {"OPS_HOST": "127.0.0.1", "OPS_PORT": "9000"}
    assert tracker.command[-1] == "tracker"


def test_the_banner_has_each_token_once() -> None:
    told = "\n".join(greeting("http://g", "k:1", "user's", "admin's", (), Path("/data"), None, "x send Hello", 1))
    assert (told.count("user's"), told.count("admin's")) == (1, 1)
    assert "\nx send Hello\n" in told


def test_the_command_is_named_as_it_can_be_typed(tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "chat-sessions"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    assert as_typed(".venv/bin/chat-sessions", tmp_path, os.defpath) == ".venv/bin/chat-sessions"
    assert as_typed(str(program), tmp_path, os.defpath) == ".venv/bin/chat-sessions"
    assert as_typed(str(program), Path("/"), os.defpath) == str(program).removeprefix("/")
    assert as_typed("../bin/chat-sessions", program.parent.with_name("lib"), os.defpath) == "../bin/chat-sessions"
    assert as_typed("./chat-sessions", program.parent, os.defpath) == "./chat-sessions"
    assert as_typed(str(program), Path("/"), str(program.parent)) == "chat-sessions"
    assert as_typed("/x/services/cli.py", Path("/y"), os.defpath) == str(Path(sys.executable).parent / "chat-sessions")


def test_a_failure_names_the_flags_that_were_given() -> None:
    told = "Kafka is away: check KAFKA_BOOTSTRAP_SERVERS. Check DATABASE_URL."
    assert in_terms_of(StackOptions(3000, Path("data")), told) == told
    given = StackOptions(3000, Path("data"), kafka="k:1", database_url="postgresql://d")
    assert in_terms_of(given, told) == "Kafka is away: check --kafka. Check --database-url."


def test_a_process_that_was_killed_did_not_end_by_itself() -> None:
    assert [how_it_ended(code) for code in (0, 3, -9)] == [
        "ended with exit code 0",
        "ended with exit code 3",
        "was killed (SIGKILL)",
    ]


def test_the_banner_names_every_place_that_holds_data() -> None:
    def last(database: str | None) -> str:
        data = Path("/data")
        *_, told = greeting("http://g", "k:1", "u", "a", (), data, database and Path(database), "send", 1)
        return told.strip()

    assert last("/data/postgres").endswith("to begin anew, delete that directory afterwards.")
    assert "the database is in /clusters/1. Ctrl-C" in last("/clusters/1")
    assert last("/clusters/1").endswith("delete both directories afterwards.")
    assert "delete" not in last(None)
