"""Bulk jobs: what they do, with which sessions, and that they outlive the gateway that works on them."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert, update

from services.api_gateway import jobs as jobs_module
from services.api_gateway.database import Database
from services.api_gateway.job_answers import Job, JobItems
from services.api_gateway.jobs import Jobs
from services.contracts import CancelRequested, MessageSent, SessionStatus, new_id
from services.contracts.ids import id_time
from services.contracts.topics import CONTROL, MESSAGES
from services.database.tables import audit_log, job_items, jobs, messages
from tests.integration.gateway import ADA, ROOT, Gateway, caught_up_gateway, old_id, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/chat-sessions/bulk"


async def start(gateway: Gateway, headers: dict[str, str] = ROOT, **body: Any) -> httpx.Response:
    return await gateway.http.post(PATH, headers=headers, json=body)


async def finished(gateway: Gateway, started: httpx.Response) -> dict[str, Any]:
    """The job once it runs no more."""
    assert started.status_code == 202, started.text
    Job.model_validate(started.json())
    path = started.headers["location"]
    answer = await until(lambda: gateway.get(path, ROOT), lambda answer: answer.json()["state"] != "running")
    told: dict[str, Any] = answer.json()
    return told


async def items(gateway: Gateway, job: dict[str, Any], limit: int = 200) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = (await gateway.get(f"{PATH}/{job['jobId']}/items", ROOT, **query)).json()
        JobItems.model_validate(page)
        found += page["items"]
        if page["nextCursor"] is None:
            return found
        query["cursor"] = page["nextCursor"]


async def add_sessions(
    gateway: Gateway, count: int, status: SessionStatus, *, said: str | None = "hello", **columns: Any
) -> list[UUID]:
    """Write so many sessions, the oldest first."""
    session_ids = [await gateway.add_session(old_id(count - n), status=status, **columns) for n in range(count)]
    if said is not None:
        rows = [
            {"id": new_id(), "chat_session_id": each, "role": "user", "created_at": id_time(each), "content": said}
            for each in session_ids
        ]
        await gateway.execute(insert(messages).values(rows))
    return session_ids


async def test_a_job_sends_the_messages_of_what_its_filter_finds_again(gateway: Gateway) -> None:
    failed = await add_sessions(gateway, 3, SessionStatus.FAILED, conversation_id="c-bulk", user_id="bob")
    erased = await add_sessions(gateway, 1, SessionStatus.FAILED, persona_id="p2", said=None)
    await add_sessions(gateway, 2, SessionStatus.COMPLETED)
    async with gateway.log_of(MESSAGES, "c-bulk") as log:
        job = await finished(gateway, await start(gateway, action="retry", filter="status:FAILED"))
        sent = [await log.next() for _ in failed]
        assert await log.is_silent()
    assert (job["state"], job["done"], job["skipped"]) == ("finished", 3, 1)
    assert [event.resumed_from for event in sent if isinstance(event, MessageSent)] == failed
    told = {item["sessionId"]: item for item in await items(gateway, job, limit=2)}
    assert [told[str(each)]["outcome"] for each in failed] == ["done"] * 3
    assert [told[str(each)]["newSessionId"] for each in failed] == [str(event.session_id) for event in sent]  # type: ignore[union-attr]
    assert (told[str(erased[0])]["outcome"], told[str(erased[0])]["code"]) == ("skipped", "no-message")
    entries = [(entry.actor, entry.action, entry.target) for entry in await gateway.rows(audit_log)]
    assert entries == [("root", "bulk.start", job["jobId"])]


async def test_a_job_cancels_by_ids_and_tells_what_became_of_each(gateway: Gateway) -> None:
    active = await add_sessions(gateway, 2, SessionStatus.ACTIVE, conversation_id="c-bulk-1")
    [ended] = await add_sessions(gateway, 1, SessionStatus.COMPLETED)
    unknown = old_id()
    ids = [str(each) for each in (unknown, ended, *active, active[0])]
    async with gateway.log_of(CONTROL, "c-bulk-1") as log:
        job = await finished(gateway, await start(gateway, action="cancel", ids=ids, reason="outage"))
        sent = [await log.next() for _ in active]
        assert await log.is_silent()
    assert {
        (event.session_id, event.requested_by, event.reason) for event in sent if isinstance(event, CancelRequested)
    } == {(each, "root", "outage") for each in active}
    await gateway.end_session(active[0], SessionStatus.CANCELLED)
    told = {
        UUID(item["sessionId"]): (item["outcome"], item["code"], item["status"]) for item in await items(gateway, job)
    }
    assert told == {
        active[0]: ("done", None, "CANCELLED"),
        active[1]: ("done", None, "ACTIVE"),
        ended: ("skipped", "already-ended", "COMPLETED"),
        unknown: ("skipped", "no-such-session", None),
    }


async def test_a_dry_run_changes_nothing(gateway: Gateway) -> None:
    [session_id] = await add_sessions(gateway, 1, SessionStatus.ACTIVE, conversation_id="c-bulk-2")
    async with gateway.log_of(CONTROL, "c-bulk-2") as log:
        job = await finished(gateway, await start(gateway, action="cancel", filter="status:ACTIVE", dryRun=True))
        assert await log.is_silent()
    assert (job["done"], job["skipped"], job["dryRun"]) == (1, 0, True)
    [item] = await items(gateway, job)
    assert (item["sessionId"], item["outcome"], item["status"]) == (str(session_id), "done", "ACTIVE")
    [entry] = await gateway.rows(audit_log)
    details = {"action": "cancel", "filter": "status:ACTIVE", "dryRun": True, "perSecond": 10, "reason": None}
    assert entry.details == details, "as the call has them"


async def test_a_job_keeps_its_pace_and_can_be_cancelled(gateway: Gateway) -> None:
    await add_sessions(gateway, 30, SessionStatus.FAILED)
    started = await start(gateway, action="retry", filter="status:FAILED", perSecond=1)
    path = started.headers["location"]
    await until(lambda: gateway.get(path, ROOT), lambda answer: answer.json()["done"] >= 2)
    cancelled = await gateway.http.patch(f"{path}/cancel", headers=ROOT)
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["finishedAt"] is not None
    assert 2 <= cancelled.json()["done"] <= 10
    again = await gateway.http.patch(f"{path}/cancel", headers=ROOT)
    assert again.json()["finishedAt"] == cancelled.json()["finishedAt"]


async def test_another_gateway_goes_on_where_one_ended(
    any_broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "WORKED_ON_SECONDS", 3.0)
    async with contextlib.AsyncExitStack() as stack:
        async with caught_up_gateway(any_broker, postgres_url) as first:
            failed = await add_sessions(first, 6, SessionStatus.FAILED, conversation_id="c-bulk-3")
            log = await stack.enter_async_context(first.log_of(MESSAGES, "c-bulk-3"))
            started = await start(first, action="retry", filter="status:FAILED", perSecond=2)
            sent: list[Any] = [await log.next()]
            await until(lambda: first.get(started.headers["location"], ROOT), lambda answer: answer.json()["done"] >= 2)
        # As if it had ended between writing the item and hearing from Kafka.
        item = job_items.c.session_id == sent[0].resumed_from
        await first.execute(update(job_items).where(item).values(outcome="due"))
        await first.engine.dispose()
        async with caught_up_gateway(any_broker, postgres_url) as second:
            told = await items(second, await finished(second, started))
        sent += [await log.next() for _ in failed]
        assert await log.is_silent()
    assert [UUID(item["sessionId"]) for item in told] == failed
    assert {item["outcome"] for item in told} == {"done"}
    assert sent.count(sent[0]) == 2
    assert {event.resumed_from for event in sent} == set(failed)


async def test_a_repeated_key_is_one_job(gateway: Gateway) -> None:
    keyed = {**ROOT, "idempotency-key": "k"}
    answers = [await start(gateway, keyed, action="cancel", filter="status:ACTIVE") for _ in range(2)]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    other = await start(gateway, keyed, action="retry", filter="status:ACTIVE")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(await gateway.rows(jobs)) == 1


async def test_what_a_job_sent_again_is_not_found_by_it(gateway: Gateway) -> None:
    await add_sessions(gateway, 1, SessionStatus.FAILED)
    started = await start(gateway, action="retry", filter="status:FAILED")
    later = UUID(int=new_id().int + (2 << 80))
    await gateway.add_session(later, status=SessionStatus.FAILED)
    assert (await finished(gateway, started))["done"] == 1


WRONG = [
    ({"action": "retry"}, "body"),
    ({"action": "retry", "filter": "status:FAILED", "ids": [str(new_id())]}, "body"),
    ({"action": "erase", "filter": "status:FAILED"}, "action"),
    ({"action": "retry", "ids": []}, "ids"),
    ({"action": "retry", "ids": ["x"]}, "ids.0"),
    ({"action": "retry", "filter": ""}, "filter"),
    ({"action": "retry", "filter": "status:"}, "q"),
    ({"action": "retry", "filter": "colour:red"}, "q"),
    ({"action": "retry", "filter": "status:FAILED", "perSecond": 0}, "perSecond"),
    ({"action": "cancel", "filter": "status:FAILED", "reason": "x" * 2049}, "reason"),
]


async def test_a_wrong_job_is_refused(gateway: Gateway) -> None:
    for body, field in WRONG:
        answer = await start(gateway, **body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field), body
    assert (await start(gateway, ADA, action="cancel", filter="status:ACTIVE")).status_code == 403
    for path in (f"{PATH}/{new_id()}", f"{PATH}/nonsense", f"{PATH}/{new_id()}/items"):
        assert (await gateway.get(path, ROOT)).json()["code"] == "no-such-job"
    assert (await gateway.http.patch(f"{PATH}/{new_id()}/cancel", headers=ROOT)).status_code == 404
    assert await gateway.rows(jobs) == []


async def test_old_jobs_are_purged_with_their_items(gateway: Gateway) -> None:
    await add_sessions(gateway, 3, SessionStatus.ACTIVE)
    for _ in range(2):
        await finished(gateway, await start(gateway, action="cancel", filter="status:ACTIVE", dryRun=True))
    [old, _] = await gateway.rows(jobs)
    await gateway.execute(
        update(jobs).where(jobs.c.job_id == old.jobId).values(created_at=datetime.now(UTC) - timedelta(days=31))
    )
    await Jobs(Database(gateway.engine)).purge(datetime.now(UTC))
    assert old.jobId not in {row.jobId for row in await gateway.rows(jobs)}
    assert len(await gateway.rows(job_items)) == 3
