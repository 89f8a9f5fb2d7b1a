"""Cleaning up: a sweep that an admin asks for."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from services.api_gateway.routes import cleanup
from services.contracts import TimeoutSweep, new_id
from services.contracts.topics import SWEEPS
from services.database.tables import audit_log, sweeps
from tests.integration.gateway import ADA, ROOT, Gateway, named

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_cleanup_asks_for_a_sweep_and_tells_what_it_did(gateway: Gateway) -> None:
    path = "/api/chat-sessions/cleanup"
    async with gateway.log_of(SWEEPS) as log:
        # As the documented command sends it: no content type of JSON.
        headers = {**ROOT, "content-type": "application/x-www-form-urlencoded"}
        asking = asyncio.create_task(gateway.http.post(path, headers=headers, content=b'{"maxAgeHours": 24}'))
        event = await log.next()
    assert isinstance(event, TimeoutSweep)
    assert (event.event_id, event.max_age_hours, event.requested_by) == (event.sweep_id, 24, "root")
    row = {"sweep_id": event.sweep_id, "requested_by": "root", "as_of": event.as_of, "max_age_hours": 24}
    finished = {"dry_run": False, "timed_out": 17, "finished_at": datetime.now(UTC)}
    await gateway.execute(insert(sweeps).values(**row, **finished))
    answer = await asking
    assert answer.status_code == 200
    assert (answer.json()["sweepId"], answer.json()["timedOut"]) == (str(event.sweep_id), 17)
    looked_up = await gateway.get(f"{path}/{event.sweep_id}", ROOT)
    assert looked_up.json() == answer.json()
    assert [entry.action for entry in await gateway.rows(audit_log)] == ["cleanup.start"]


async def test_a_cleanup_that_takes_longer_is_202_with_where_to_look(gateway: Gateway) -> None:
    answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ROOT, json={"dryRun": True})
    assert (answer.status_code, answer.json()["dryRun"]) == (202, True)
    looked_up = await gateway.get(answer.headers["location"], ROOT)
    assert (looked_up.status_code, looked_up.json()["code"]) == (503, "not-yet-begun")
    for unknown in (new_id(), "x"):
        looked_up = await gateway.get(f"/api/chat-sessions/cleanup/{unknown}", ROOT)
        assert (looked_up.status_code, looked_up.json()["code"]) == (404, "no-such-sweep")


async def test_a_cleanup_with_a_key_is_one_sweep(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "SWEEP_SECONDS", 0.1)
    path, headers = "/api/chat-sessions/cleanup", {**ROOT, "idempotency-key": "k-1"}
    async with gateway.log_of(SWEEPS) as log:
        first = await gateway.http.post(path, headers=headers, json={"maxAgeHours": 24})
        again = await gateway.http.post(path, headers=headers, json={"maxAgeHours": 24})
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json() == first.json()
        event = await log.next()
        assert await log.is_silent()
    assert isinstance(event, TimeoutSweep)
    assert str(event.event_id) == first.json()["sweepId"]
    row = {"sweep_id": event.sweep_id, "requested_by": "root", "as_of": event.as_of, "max_age_hours": 24}
    await gateway.execute(insert(sweeps).values(**row, dry_run=False, finished_at=datetime.now(UTC)))
    ended = await gateway.http.post(path, headers=headers, json={"maxAgeHours": 24})
    assert (ended.status_code, ended.json()["sweepId"]) == (200, first.json()["sweepId"])
    other = await gateway.http.post(path, headers=headers, json={"maxAgeHours": 25})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(await gateway.rows(audit_log)) == 1


async def test_a_wrong_cleanup_is_refused(gateway: Gateway) -> None:
    for body in ({"maxAgeHours": 0}, {"maxAgeHours": "24"}, {"dryRun": 1}, {"hours": 1}):
        answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ROOT, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), body


async def test_only_an_admin_cleans_up(gateway: Gateway) -> None:
    answer = await gateway.http.post("/api/chat-sessions/cleanup", headers=ADA, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "admin-only")
    [entry] = await gateway.rows(audit_log)
    assert (entry.actor, entry.action, entry.outcome) == (named("ada"), "cleanup.start", "refused")
