"""The dispatcher against a real n8n, row by row, and the stub against what that answered."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.contracts import FailureKind
from services.local.n8n import RealN8n, start_n8n
from services.local.n8n_artifacts import N8nArtifacts
from services.local.n8n_workflows import WebhookCredentials
from services.local.processes import free_port
from services.local.reaper import Reaper
from services.webhook_dispatcher.course import Course
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.personas import Persona
from tests.e2e.local_stack import start_up
from tests.n8n.rows import LOOPBACK, MESSAGE, ROWS, TRACEPARENT, Row, Seen, as_one_piece, call, message_sent
from tests.n8n.table import DOCUMENT, document, see

# The first one may have to install n8n.
pytestmark = pytest.mark.timeout(3600)

Answers = dict[str, Seen]


@pytest_asyncio.fixture
async def n8n() -> AsyncIterator[N8n]:
    async with N8n(LOOPBACK) as client:
        yield client


@pytest.fixture(scope="module")
def answers() -> Answers:
    """What the real n8n answered so far, by case."""
    return {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
async def test_each_row_gets_its_verdict_and_the_stub_answers_alike(
    row: Row, n8n: N8n, real_n8n: RealN8n, credentials: WebhookCredentials, stub_url: str, answers: Answers
) -> None:
    real = answers[row.case] = await see(n8n, real_n8n.url, row, credentials)
    assert real.verdict == (row.kind or f"You said: {MESSAGE}")
    played = await call(n8n, f"{stub_url}/webhook/{row.stub}", timeout_seconds=5 if real.status else 0.5)
    assert (played.status, played.content_type, as_one_piece(played.body), played.verdict) == (
        real.status,
        real.content_type,
        as_one_piece(real.body),
        real.verdict,
    )


def test_the_committed_table_is_what_was_seen(answers: Answers) -> None:
    if answers.keys() != {row.case for row in ROWS}:
        pytest.skip("The table is of every row, and only some of them were chosen for this run.")
    assert DOCUMENT.read_text() == document([(row, answers[row.case]) for row in ROWS])


async def test_a_workflow_tells_its_execution(n8n: N8n, real_n8n: RealN8n) -> None:
    course = Course(time.monotonic(), 10)
    persona = Persona("echo", f"{real_n8n.url}/webhook/echo")
    await n8n.call(persona, message_sent(), course, traceparent=TRACEPARENT)
    assert course.execution_id is not None
    assert course.execution_id.isdigit()


@pytest.mark.parametrize("place", ["n8n", "stub"])
async def test_a_repeated_call_gets_the_reply_of_the_first(
    place: str, n8n: N8n, real_n8n: RealN8n, stub_url: str
) -> None:
    url, message = real_n8n.url if place == "n8n" else stub_url, message_sent()
    first, second = [await call(n8n, f"{url}/webhook/dedupe", message=message) for _ in range(2)]
    assert first.body == '{"reply":"You said: Hello","sessionId":"SESSION","repeated":false}'
    assert second.body == '{"reply":"You said: Hello","sessionId":"SESSION","repeated":true}'


def test_messages_through_the_whole_system_end_as_n8n_answers(
    real_n8n: RealN8n, credentials: WebhookCredentials, session_directory: Path
) -> None:
    up = start_up(session_directory / "n8n-stack", "--n8n", real_n8n.url)
    try:
        stack = up.stack()
        assert "n8n" not in stack["processes"]
        with httpx.Client(base_url=stack["gatewayUrl"], timeout=40, trust_env=False) as client:
            ended = _through_the_gateway(client, stack, real_n8n.url, credentials)
    finally:
        assert up.stop() == 0
    assert ended == {
        "echo": ("COMPLETED", "You said: Hello"),
        "slow": ("COMPLETED", "You said: Hello"),
        "streaming": ("COMPLETED", "You said: Hello"),
        "callback": ("COMPLETED", "You said: Hello"),
        "broken": ("FAILED", "workflow-error"),
        "immediate": ("FAILED", "acknowledged-only"),
        "empty": ("FAILED", "no-reply"),
        "last-node-empty": ("FAILED", "no-reply"),
        "not-registered": ("FAILED", "not-registered"),
        "header-auth": ("COMPLETED", "You said: Hello"),
        "header-auth-wrong": ("FAILED", "unauthorized"),
        "hang": ("FAILED", "timeout"),
    }


def _through_the_gateway(
    client: httpx.Client, stack: dict[str, Any], n8n_url: str, credentials: WebhookCredentials
) -> dict[str, tuple[str, str]]:
    """Send a message to each persona; gives status and reply, or failure kind."""
    user = {"authorization": f"Bearer {stack['userToken']}"}
    admin = {"authorization": f"Bearer {stack['adminToken']}"}
    header = {"webhookUrl": f"{n8n_url}/webhook/header-auth"}
    for persona, body in {
        "header-auth": {**header, "auth": _header_auth(credentials, credentials.header_value)},
        "header-auth-wrong": {**header, "auth": _header_auth(credentials, "wrong")},
        "hang": {"webhookUrl": f"{n8n_url}/webhook/hang", "timeoutSeconds": 1},
    }.items():
        client.put(f"/api/personas/{persona}", json=body, headers=admin).raise_for_status()
    personas = ["echo", "slow", "streaming", "callback", "broken", "immediate", "empty", "last-node-empty"]
    ended = {}
    for persona in [*personas, "not-registered", "header-auth", "header-auth-wrong", "hang"]:
        answer = client.post(
            f"/api/conversations/with-{persona}/messages?wait=30",
            json={"personaId": persona, "message": MESSAGE},
            headers=user,
        )
        assert answer.status_code == 200, answer.text
        session = answer.json()
        ended[persona] = (session["status"], session.get("reply") or session["failureKind"])
    return ended


def _header_auth(credentials: WebhookCredentials, value: str) -> dict[str, str]:
    return {"type": "header", "name": credentials.header_name, "value": value}


async def test_at_its_concurrency_limit_n8n_leaves_calls_unanswered_and_runs_them_later(
    n8n: N8n, artifacts: N8nArtifacts, tmp_path: Path, reaper: Reaper
) -> None:
    limit = {"N8N_CONCURRENCY_PRODUCTION_LIMIT": "1"}
    crowded = start_n8n(tmp_path, artifacts, free_port(), reaper, print, limit)
    try:
        message = message_sent()
        slow = [asyncio.create_task(call(n8n, f"{crowded.url}/webhook/slow")) for _ in range(2)]
        await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
        # The other one has just got the only place, for 3 s.
        unanswered = await call(n8n, f"{crowded.url}/webhook/dedupe", message=message, timeout_seconds=1)
        assert unanswered.verdict is FailureKind.TIMEOUT
        assert {seen.verdict for seen in await asyncio.gather(*slow)} == {"You said: Hello"}
        # Its turn came although its caller was gone.
        again = await call(n8n, f"{crowded.url}/webhook/dedupe", message=message)
        assert again.body == '{"reply":"You said: Hello","sessionId":"SESSION","repeated":true}'
    finally:
        crowded.stop()
