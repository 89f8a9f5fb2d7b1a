"""`chat-sessions doctor` beside a real Kafka and a real PostgreSQL in which nothing runs."""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

from services.local.postgres import EmbeddedPostgres
from services.local.processes import free_port
from tests.integration.kafka_log import settings_for


def test_it_says_what_does_not_run_and_shows_no_secret(
    bootstrap: str, postgres_url: str, postgres_server: EmbeddedPostgres
) -> None:
    kafka = settings_for(bootstrap)
    postgres_server.run_sql(
        "INSERT INTO fold_progress VALUES ('chat.messages.v1', 0, now()); DROP INDEX \"ix_jobs_createdAt\"",
        urlsplit(postgres_url).path[1:],
    )
    environment = {
        "PATH": os.defpath,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.kafka_bootstrap_servers,
        "KAFKA_IDEMPOTENCE": str(kafka.kafka_idempotence),
        "DATABASE_URL": postgres_url,
        "JWT_SECRET": "a secret that is never shown, of more than 32 bytes",
        "GATEWAY_PORT": str(free_port()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", "--json"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "a secret" not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    levels = {finding["check"]: finding["level"] for finding in document["findings"]}
    assert document["well"] is False
    assert levels.pop("kafka.retention") in {"well", "notice"}  # the embedded broker does not tell
    assert levels == {
        "clocks.postgres": "well",
        "dead-letters": "well",
        "kafka.group.session-sweeps": "wrong",
        "kafka.group.session-tracker": "wrong",
        "kafka.group.webhook-dispatcher": "wrong",
        "kafka.replication": "well",
        "kafka.topics": "well",
        "personas": "notice",
        "postgres.fold": "wrong",
        "postgres.indexes": "wrong",
        "postgres.partitions": "wrong",
        "postgres.rollups": "well",
        "postgres.schema": "well",
        "postgres.sweeps": "notice",
        "processes.gateway": "wrong",
        "settings": "well",
    }
