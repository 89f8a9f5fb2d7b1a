"""Exports: all that a filter finds, in either format, for as long as somebody reads."""

import asyncio
import csv
import gzip
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio

from services.api_gateway import downloads, parts
from services.api_gateway.answer_models import Session
from services.api_gateway.exports import COLUMNS
from services.api_gateway.routes import exports
from services.contracts import SessionStatus
from services.database.partitions import create_partitions, id_at
from services.database.tables import audit_log
from services.runtime import http_protocol
from tests.integration.gateway import ADA, BOB, ROOT, Gateway, named, old_id, running_gateway, until
from tests.patience import PATIENT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXPORT = "/api/chat-sessions/export"
PLAIN = {"accept-encoding": "identity"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(any_broker, module_postgres_url, topics=False) as gateway:
        yield gateway


async def add_many(gateway: Gateway, number: int, padding: int = 0) -> None:
    """Write sessions of ada, a millisecond apart."""
    first = datetime(2026, 11, 5, tzinfo=UTC)
    async with gateway.engine.begin() as connection:
        await create_partitions(connection, first.replace(day=1))
        await connection.exec_driver_sql(
            """
            INSERT INTO chat_sessions (id, "sessionId", "conversationId", "personaId", "userId", status, "startedAt",
                "lastActivityAt", version, "responseMs", metadata)
            SELECT n, n, 'c', 'p', 'ada', 'COMPLETED', at, at, 2, i % 7, jsonb_build_object('pad', repeat('x', $3))
            FROM (
                SELECT i, $4::timestamptz + i * interval '1 ms' AS at,
                    (lpad(to_hex($1::bigint + i), 12, '0') || '70008000' || lpad(i::text, 12, '0'))::uuid AS n
                FROM generate_series(1, $2::int) AS i
            ) AS sessions
            """,
            (id_at(first).int >> 80, number, padding, first),
        )


async def test_an_export_is_what_the_list_is(gateway: Gateway) -> None:
    kinds = {"failure_kind": "timeout", "error_message": 'It "broke",\nreally.', "metadata": {"env": "dev", "ü": [1]}}
    failed = await gateway.add_session(old_id(2), status=SessionStatus.FAILED, ended_at=datetime.now(UTC), **kinds)
    active = await gateway.add_session(old_id(1))
    await gateway.add_session(old_id(), user_id="bob")
    listed = (await gateway.get("/api/chat-sessions")).json()["items"]
    answer = await gateway.get(EXPORT)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="chat-sessions.ndjson"'
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == listed
    assert [Session.model_validate(line).session_id for line in lines] == [active, failed]
    table = await gateway.get(EXPORT, format="csv", sort="startedAt")
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [row["sessionId"] for row in rows] == [str(failed), str(active)]
    assert [*rows[0]] == list(COLUMNS)
    for row, session in zip(rows, reversed(listed), strict=True):
        assert json.loads(row.pop("metadata")) == session.pop("metadata")
        assert row == {name: "" if value is None else str(value) for name, value in session.items()}


async def test_an_export_is_filtered(gateway: Gateway) -> None:
    failed = await gateway.add_session(old_id(), status=SessionStatus.FAILED, error_message="It broke.")
    await gateway.add_session(old_id())
    for query in ({"status": "FAILED"}, {"q": '"BROKE"'}, {"q": "-status:ACTIVE", "personaId": "echo"}):
        assert json.loads((await gateway.get(EXPORT, **query)).text)["sessionId"] == str(failed)
    assert (await gateway.get(EXPORT, personaId="none")).text == ""
    assert (await gateway.get(EXPORT, personaId="none", format="csv")).text == ",".join(COLUMNS) + "\r\n"


async def test_an_export_goes_through_every_page_in_order(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_SESSIONS", 10)
    await add_many(gateway, 35)
    for sort, key in [
        ("-startedAt", lambda one: one["sessionId"]),
        ("startedAt", lambda one: one["sessionId"]),
        ("-responseMs", lambda one: (one["responseMs"], one["sessionId"])),
    ]:
        answer = await gateway.get(EXPORT, sort=sort, **{"from": "2026-11-01", "to": "2026-12-01"})
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert len(found) == 35
        assert found == sorted(found, key=key, reverse=sort.startswith("-"))


async def test_an_admin_exports_everyones_sessions_and_that_is_audited(gateway: Gateway) -> None:
    theirs = {user: str(await gateway.add_session(old_id(), user_id=user)) for user in ("ada", "bob", "root")}

    async def found(headers: dict[str, str], **query: str) -> set[str]:
        answer = await gateway.get(EXPORT, headers, **query)
        return {json.loads(line)["sessionId"] for line in answer.text.splitlines()}

    assert await found(ADA) == {theirs["ada"]}
    assert await found(ADA, q="-persona:none") == {theirs["ada"]}
    assert await found(ROOT, userId="root") == {theirs["root"]}
    assert await gateway.rows(audit_log) == []
    assert await found(ROOT) == set(theirs.values())
    assert await found(ROOT, userId="bob") == {theirs["bob"]}
    entries = sorted((entry.actor, entry.action, entry.target) for entry in await gateway.rows(audit_log))
    assert entries == [("root", "session.export", "*"), ("root", "session.export", f"user:{named('bob')}")]
    assert (await gateway.get(EXPORT, userId="bob")).status_code == 403


async def test_what_a_spreadsheet_would_run_is_only_text(gateway: Gateway) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "fine =1", "'quoted'", 'a","=1']
    for number, text in enumerate(texts):
        await gateway.add_session(old_id(number), error_message=text, persona_id="=cmd()")
    rows = list(csv.DictReader(io.StringIO((await gateway.get(EXPORT, format="csv")).text, newline="")))
    assert [row["errorMessage"] for row in rows] == [f"'{text}" for text in texts[:7]] + texts[7:]
    assert {row["personaId"] for row in rows} == {"'=cmd()"}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


async def test_an_export_is_compressed_where_that_is_taken(gateway: Gateway) -> None:
    await add_many(gateway, 1_500, padding=100)
    plain = await gateway.get(EXPORT, {**ADA, **PLAIN})
    assert "content-encoding" not in plain.headers
    async with gateway.http.stream("GET", EXPORT, headers={**ADA, "accept-encoding": "br, gzip;q=0.5"}) as answer:
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "accept-encoding")
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert gzip.decompress(packed) == plain.content
    assert len(packed) < len(plain.content) / 5


async def test_wrong_exports_are_refused_before_they_begin(gateway: Gateway) -> None:
    for query, code in [
        ({"format": "xlsx"}, "invalid-parameter"), ({"limit": "5"}, "invalid-parameter"),
        ({"sort": "-responseMs"}, "invalid-parameter"), ({"q": "nonsense"}, "invalid-filter"),
        ({"q": "user:bob"}, "invalid-filter"),
    ]:  # fmt: skip
        answer = await gateway.get(EXPORT, **query)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert await under_way(gateway) == 0


async def under_way(gateway: Gateway) -> int:
    text = (await gateway.http.get("/metrics")).text
    return int(float(text.partition("\nchat_exports ")[2].partition("\n")[0]))


async def count(gateway: Gateway, expected: int) -> None:
    await until(lambda: gateway.http.get("/metrics"), lambda answer: f"\nchat_exports {expected}.0" in answer.text)


async def test_exports_are_few_and_end_with_their_clients(gateway: Gateway) -> None:
    # More than the sockets between the two hold, so that none ends before it is read.
    await add_many(gateway, 20_000, padding=2_000)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        streams, readers = [], []
        for _ in range(downloads.MOST_AT_ONCE):
            stream = http.stream("GET", EXPORT, headers={**ADA, **PLAIN})
            answer = await stream.__aenter__()
            readers.append(answer.aiter_raw())
            assert await anext(readers[-1])
            streams.append(stream)
        refused = await gateway.get(EXPORT, BOB)
        assert (refused.status_code, refused.json()["code"]) == (503, "too-many-exports")
        assert refused.headers["retry-after"] == "10"
        assert await under_way(gateway) == downloads.MOST_AT_ONCE
        await streams.pop().__aexit__(None, None, None)
        await count(gateway, downloads.MOST_AT_ONCE - 1)
        assert (await gateway.get(EXPORT, BOB)).status_code == 200
        for stream in streams:
            await stream.__aexit__(None, None, None)
    await count(gateway, 0)
    async with gateway.engine.connect() as connection:
        open_ones = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'chat-sessions' AND state <> 'idle'"
            " AND datname = current_database()"
        )
        async with asyncio.timeout(PATIENT_SECONDS):
            while (await connection.exec_driver_sql(open_ones)).scalar_one():
                await connection.rollback()  # within a transaction PostgreSQL shows its activity as it was first
                await asyncio.sleep(0.05)


async def test_a_client_that_takes_nothing_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALL_SECONDS", 0.3)
    await add_many(gateway, 20_000, padding=2_000)
    async with gateway.http.stream("GET", EXPORT, headers={**ADA, **PLAIN}) as answer:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as other:
            await until(lambda: other.get("/metrics"), lambda metrics: "\nchat_exports 0.0" in metrics.text)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await answer.aread()


async def test_an_export_that_cannot_go_on_is_no_whole_answer(
    any_broker: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "STATEMENT_TIMEOUT_MS", 1_000)
    async with running_gateway(any_broker, postgres_url, topics=False) as gateway:
        await add_many(gateway, 20_000, padding=2_000)
        async with (
            gateway.engine.connect() as other,
            gateway.http.stream("GET", EXPORT, headers={**ADA, **PLAIN}) as answer,
        ):
            await other.exec_driver_sql("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        await count(gateway, 0)
