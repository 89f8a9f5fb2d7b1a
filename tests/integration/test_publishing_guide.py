"""The README's program, as it stands there, publishes a message that every service reads."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from aiokafka.partitioner import murmur2

from services.contracts import MessageSent, admit, decode
from services.contracts.topics import MESSAGES, PARTITIONS
from services.runtime.topics import create_topics
from tests.integration.kafka_log import read_all, settings_for
from tests.patience import PATIENT_SECONDS

README = Path(__file__).parents[2] / "README.md"


def first_program(text: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, "the README has no Python program"
    return found.group(1)


async def test_the_readmes_program_publishes_a_message(broker: str, tmp_path: Path) -> None:
    await create_topics(settings_for(broker))
    program = tmp_path / "program.py"
    program.write_text(first_program(README.read_text()))

    started = datetime.now(UTC)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        str(program),
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENT_SECONDS):
        output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")

    session_id = UUID(output.decode().strip())
    headers = str(session_id).encode()
    (record,) = [r for r in await read_all(broker, MESSAGES.name) if dict(r.headers).get("ce_subject") == headers]
    event = decode(record.topic, record.headers, record.value)
    admit(event, datetime.now(UTC))
    assert isinstance(event, MessageSent)
    assert (event.session_id, event.message, event.user_id) == (session_id, "Hello", "user-1")
    assert started <= event.occurred_at <= datetime.now(UTC)
    assert record.key == event.conversation_id.encode()
    assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS


def test_the_readmes_program_is_short() -> None:
    lines = [line for line in first_program(README.read_text()).splitlines() if line.strip()]
    assert len(lines) <= 13
