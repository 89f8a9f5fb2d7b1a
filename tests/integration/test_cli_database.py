"""What PostgreSQL refuses a tool is one line that says what to check, and no password."""

import os

import pytest

from services.local.postgres import EmbeddedPostgres
from tests.command_line import run_command
from tests.integration.kafka_log import settings_for

pytestmark = pytest.mark.any_broker


@pytest.mark.parametrize("command", ["migrate", "recover"])
@pytest.mark.parametrize(
    ("user", "database", "told"),
    [
        ("nobody:secret", "chat_sessions", 'role "nobody" does not exist'),
        ("chat_sessions:secret", "missing", 'database "missing" does not exist'),
        ("guest:secret", "postgres", "permission denied"),
    ],
)
def test_a_refusal_is_one_line(
    postgres_server: EmbeddedPostgres, broker: str, command: str, user: str, database: str, told: str
) -> None:
    postgres_server.run_sql("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    kafka = settings_for(broker)
    environment = {
        "PATH": os.defpath,
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "KAFKA_IDEMPOTENCE": str(kafka.kafka_idempotence),
        "DATABASE_URL": postgres_server.url(database).replace("chat_sessions@", f"{user}@"),
    }
    done = run_command(command, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    error = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1
    assert error[0].endswith((" Check DATABASE_URL.", "check DATABASE_URL and what its user may do."))
    if command == "recover" and database == "postgres":
        told = "run `chat-sessions migrate`"
    assert told in error[0]
    assert "secret" not in done.stderr


def test_recovery_without_kafka_names_where_it_looked() -> None:
    environment = {"PATH": os.defpath, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_IDEMPOTENCE": "false"}
    done = run_command("recover", environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "Error: Kafka at 127.0.0.1:1 cannot be reached: start it, or check KAFKA_BOOTSTRAP_SERVERS.\n"
    )
