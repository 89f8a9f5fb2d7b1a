"""How a gateway asks for an erasure, whatever becomes of it, of Kafka and of other gateways meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, update
from sqlalchemy.ext.asyncio import create_async_engine

from services.api_gateway import erasures as erasures_module
from services.api_gateway import publishing
from services.contracts import CancelRequested, ErasureRequested, new_id
from services.contracts.ids import derived_id
from services.contracts.topics import CONTROL
from services.database.tables import conversations, erasure_requests, erasures, idempotency_keys, jobs
from tests.integration.gateway import ROOT, Gateway, caught_up_gateway, named, old_id, running_gateway, until
from tests.integration.user_data import DATA, ERASED
from tests.patience import PATIENT_SECONDS


@pytest.fixture
async def gateway(any_broker: str, postgres_url: str) -> AsyncIterator[Gateway]:
    async with caught_up_gateway(any_broker, postgres_url) as running:
        yield running


async def until_request(gateway: Gateway, enough: Callable[[Any], bool]) -> Any:
    """The only request as soon as it is so far."""
    async with asyncio.timeout(PATIENT_SECONDS):
        while not enough(row := (await gateway.rows(erasure_requests))[0]):
            await asyncio.sleep(0.01)
    return row


async def test_a_gateway_of_another_time_asks_for_the_rest(
    any_broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures_module, "PAGE", 3)
    own = f"{uuid4()}-"
    owned = [{"conversation_id": f"{own}c-{n}", "user_id": "ada"} for n in range(4)]
    # What the tracker has given away already counts too.
    owned += [{"conversation_id": f"{own}d-{n}", "user_id": ERASED} for n in range(4)]
    async with caught_up_gateway(any_broker, postgres_url) as gateway:
        await gateway.execute(insert(conversations), [*owned, {"conversation_id": "e", "user_id": "bob"}])
        active = await gateway.add_session(old_id(), conversation_id=f"{own}c-1")
        await gateway.add_session(old_id(), conversation_id="e", user_id="bob")
    with monkeypatch.context() as impatient:
        impatient.setattr(publishing, "ACKNOWLEDGE_SECONDS", 0.5)
        async with running_gateway("127.0.0.1:9", postgres_url, topics=False) as away:
            asked = await away.http.delete(DATA, headers=ROOT)
            assert (asked.status_code, asked.json()["state"]) == (202, "running")
            await until_request(away, lambda row: row.workerUntil is not None)
            row = await until_request(away, lambda row: row.workerUntil is None)
    # As if it had come so far before its broker went away, and another worked on it now.
    so_far = {"position": f"{own}c-2", "asked": 3, "worker_until": datetime.now(UTC) + timedelta(hours=1)}
    engine = create_async_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.execute(update(erasure_requests).values(so_far))
    await engine.dispose()
    async with caught_up_gateway(any_broker, postgres_url) as gateway, gateway.log_of(CONTROL, keys=own) as log:
        assert await log.is_silent()
        await gateway.execute(update(erasure_requests).values(worker_until=None))
        events = [await log.next() for _ in range(6)]
        assert await log.is_silent()
        [done] = await gateway.rows(erasure_requests)
    [cancel] = [event for event in events if isinstance(event, CancelRequested)]
    assert (cancel.session_id, cancel.user_id, cancel.requested_by) == (active, "ada", "root")
    told = [event for event in events if isinstance(event, ErasureRequested)]
    assert {event.conversation_id for event in told} == {own + each for each in ("c-3", "d-0", "d-1", "d-2", "d-3")}
    assert {(event.user_id, event.before, event.requested_by) for event in told} == {("ada", row.before, "root")}
    assert {event.event_id for event in told} == {derived_id(row.erasureId, event.conversation_id) for event in told}
    assert done.askedAt is not None
    assert done.asked == 8


async def test_what_the_broker_has_lost_is_asked_for_again(gateway: Gateway) -> None:
    asked = await gateway.http.delete(DATA, headers=ROOT)
    path = asked.headers["location"]
    await until_request(gateway, lambda row: row.askedAt is not None)
    async with gateway.log_of(CONTROL, asked.json()["erasureId"]) as log:
        await gateway.execute(update(erasure_requests).values(asked_at=func.now() - timedelta(minutes=2)))
        assert isinstance(await log.next(), ErasureRequested)
    [row] = await gateway.rows(erasure_requests)
    done = {"user_id": "ada", "before": row.before, "requested_by": "root", "begun_at": row.before, "sessions": 7}
    await gateway.execute(insert(erasures).values(done))
    assert (await gateway.get(path, ROOT)).json()["sessions"] == 7, "so far"
    await gateway.execute(update(erasures).values(finished_at=func.now()))
    receipt = await until(lambda: gateway.get(path, ROOT), lambda answer: answer.json()["state"] == "finished")
    assert receipt.json()["sessions"] == 7
    [row] = await gateway.rows(erasure_requests)
    assert (row.userId, row.userName) == (None, named("ada")), "the receipt does not name him"


async def test_keys_and_filters_from_before_are_forgotten_and_no_others(gateway: Gateway) -> None:
    long_ago, soon = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(minutes=1)
    keys = [
        {"user_id": user, "key": key, "route": "r", "body_hash": b"", "session_id": new_id(), "event_id": new_id(),
         "created_at": at, "sent_at": at}
        for user, key, at in [("ada", "old", long_ago), ("ada", "new", soon), ("bob", "old", long_ago)]
    ]  # fmt: skip
    await gateway.execute(insert(idempotency_keys), keys)
    filters = {"user:ada": True, 'status:ACTIVE -user:(bob OR "ada")': True, "user:ada-2": False, "persona:ada": False}
    rows = [
        {"job_id": new_id(), "requested_by": "root", "action": "cancel", "filter": text, "dry_run": True,
         "per_second": 1, "state": "running", "created_at": long_ago, "worker": new_id(),
         "worker_until": soon}
        for text in [*filters, "user:gone-since colour:red"]
    ]  # fmt: skip
    await gateway.execute(insert(jobs), rows)
    await gateway.http.delete(DATA, headers=ROOT)
    await until_request(gateway, lambda row: row.askedAt is not None)
    assert {(row.userId, row.key) for row in await gateway.rows(idempotency_keys)} == {("ada", "new"), ("bob", "old")}
    states = {row.jobId: (row.filter, row.state) for row in await gateway.rows(jobs)}
    for row in rows:
        gone = filters.get(str(row["filter"]), False)
        assert states[row["job_id"]] == ((None, "cancelled") if gone else (row["filter"], "running"))
