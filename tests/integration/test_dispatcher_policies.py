"""A message that says how it is to be called: in place of its persona's settings, for itself alone."""

import pytest

from services.contracts import FailureKind, WebhookAttempted, WebhookFailed
from services.contracts.policy import CallPolicy
from tests.integration.dispatching import add_persona, dispatcher, ended, results_of
from tests.integration.tracker_process import publish_events
from tests.integration.webhook_server import Call, echo, http, never, webhook_server
from tests.sample_events import SessionEvents

pytestmark = pytest.mark.any_broker


async def test_a_messages_own_timeout_counts_and_its_neighbours_do_not_notice(
    bootstrap: str, postgres_url: str
) -> None:
    hasty, patient = SessionEvents(conversation="c1"), SessionEvents(conversation="c2")

    async def answer(call: Call) -> bytes:
        return await (never if call.session_id == hasty.session_id else echo)(call)

    async with webhook_server(answer) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), timeoutSeconds=60, maxAttempts=1)
        await publish_events(bootstrap, [hasty.sent(call_policy=CallPolicy(timeout_seconds=0.2)), patient.sent()])
        failed = await ended(bootstrap, hasty.session_id)
        assert not isinstance(await ended(bootstrap, patient.session_id), WebhookFailed)
    assert isinstance(failed, WebhookFailed)
    assert failed.failure_kind is FailureKind.TIMEOUT
    assert 200 <= failed.duration_ms < 5_000


async def test_a_messages_own_retries_count(bootstrap: str, postgres_url: str) -> None:
    thrice, once, as_ever = [SessionEvents(conversation=f"c{number}") for number in range(3)]

    async def broken(call: Call) -> bytes:
        return http({"message": "Error in workflow"}, 500)

    async with webhook_server(broken) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), maxAttempts=2, idempotent=True)
        policies = {
            thrice: CallPolicy(max_attempts=3),
            once: CallPolicy(idempotent=False),
            as_ever: None,
        }
        await publish_events(bootstrap, [session.sent(call_policy=policy) for session, policy in policies.items()])
        for session in policies:
            assert isinstance(await ended(bootstrap, session.session_id), WebhookFailed)
        attempts = {session: await results_of(bootstrap, session.session_id) for session in policies}
    assert [webhook.calls_of(session.session_id) for session in policies] == [3, 1, 2]
    assert [len(told) for told in attempts.values()] == [3, 1, 2]
    assert all(isinstance(event, WebhookAttempted) for told in attempts.values() for event in told[:-1])


async def test_a_messages_own_deadline_counts(bootstrap: str, postgres_url: str) -> None:
    session = SessionEvents()

    async def unavailable(call: Call) -> bytes:
        return http({}, 503)

    async with webhook_server(unavailable) as webhook, dispatcher(bootstrap, postgres_url):
        await add_persona(postgres_url, "p1", webhook.url("p1"), maxAttempts=100, deadlineSeconds=3600)
        policy = CallPolicy(deadline_seconds=0.5, max_attempts=50)
        await publish_events(bootstrap, [session.sent(call_policy=policy)])
        assert isinstance(await ended(bootstrap, session.session_id), WebhookFailed)
    assert webhook.calls_of(session.session_id) < 10
