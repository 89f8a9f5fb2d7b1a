"""The stream of one session: its changes, its reply piece by piece, and its end."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import update

from services.api_gateway.answer_models import EndedSession, Session
from services.contracts import SessionStatus, new_id
from services.database.tables import chat_sessions, messages
from tests.integration.gateway import ADA, BOB, ROOT, Gateway
from tests.integration.live import Event, Tells, listening, listening_to_list, live_gateway, telling

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with live_gateway(broker, module_postgres_url) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> Gateway:
    """It, with nothing in its database and everything folded."""
    await running.empty()
    await running.folded(datetime(9000, 1, 1, tzinfo=UTC))
    return running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tells(broker: str) -> AsyncIterator[Tells]:
    async with telling(broker) as running:
        yield running


def live(session_id: UUID) -> str:
    return f"/api/chat-sessions/{session_id}/live"


async def complete(gateway: Gateway, tells: Tells, session_id: UUID, reply: str = "hi there", version: int = 2) -> None:
    """End the session and tell of it, as the tracker does."""
    now = datetime.now(UTC)
    await gateway.end_session(session_id, SessionStatus.COMPLETED, version=version)
    said = {"id": new_id(), "chat_session_id": session_id, "role": "persona", "created_at": now, "content": reply}
    await gateway.execute(messages.insert().values(said))
    await tells.change(session_id, SessionStatus.COMPLETED, version, ended_at=now)


def shown(event: Event) -> tuple[Any, ...]:
    delta = event.data
    return (delta["attempt"], delta["index"], delta["text"])


async def test_a_session_is_watched_to_its_end(gateway: Gateway, tells: Tells) -> None:
    session_id, other = await gateway.add_session(), await gateway.add_session()
    async with listening(gateway, live(session_id)) as ada:
        first = await ada.expect("session")
        assert first.data == (await gateway.get("/api/chat-sessions")).json()["items"][1]
        assert first.retry is not None
        await tells.change(other, version=2)
        await tells.delta(other, 0, "not this one")
        await tells.change(session_id, version=2, attempts=1)
        attempted = await ada.expect("session")
        assert (attempted.data["version"], attempted.data["attempts"]) == (2, 1)
        Session.model_validate(attempted.data)
        await tells.delta(session_id, 0, "hi ", attempt=2)
        await tells.delta(session_id, 1, "thére\n\ndata: x", attempt=2)
        assert [shown(await ada.expect("delta")) for _ in range(2)] == [(2, 0, "hi "), (2, 1, "thére\n\ndata: x")]
        await tells.change(session_id, version=2, attempts=1)  # told again, as after a crash of the tracker
        await complete(gateway, tells, session_id, version=3)
        last = await ada.expect("session")
        assert (last.data["status"], last.data["reply"], last.data["version"]) == ("COMPLETED", "hi there", 3)
        EndedSession.model_validate(last.data)
        await ada.expect_end()
        assert ada.answer.headers["connection"] == "close"
    over = await gateway.get(live(session_id), {**ADA, "last-event-id": last.id})
    assert (over.status_code, over.text) == (204, "")
    async with listening(gateway, live(session_id), known=attempted.id) as again:
        assert (await again.expect("session")).data == last.data
        await again.expect_end()


async def test_who_watches_a_session_that_is_erased_is_told_nothing_more(gateway: Gateway, tells: Tells) -> None:
    session_id = await gateway.add_session(metadata={"note": "kangaroo"})
    nobodys = {"user_id": "erased:0123", "metadata": {}}
    async with listening(gateway, live(session_id)) as ada, listening(gateway, live(session_id), ROOT) as root:
        for listener in (ada, root):
            assert (await listener.expect("session")).data["metadata"] == {"note": "kangaroo"}
        await gateway.end_session(session_id, SessionStatus.CANCELLED, **nobodys)
        await tells.change(session_id, SessionStatus.CANCELLED, 2, ended_at=datetime.now(UTC), user_id="erased:0123")
        assert (await ada.expect("reconnect")).data == {"reason": "failed"}
        last = await root.expect("session")
        assert (last.data["status"], last.data["userId"], last.data["metadata"]) == ("CANCELLED", "erased:0123", {})
    assert (await gateway.get(live(session_id))).status_code == 404


async def test_a_session_that_has_ended_is_told_and_that_is_all(gateway: Gateway) -> None:
    session_id = await gateway.add_session(status=SessionStatus.CANCELLED, ended_at=datetime.now(UTC), version=2)
    async with listening(gateway, live(session_id)) as ada:
        last = await ada.expect("session")
        assert (last.data["status"], last.data["reply"]) == ("CANCELLED", None)
        await ada.expect_end()


async def test_who_comes_late_or_back_is_told_the_pieces_he_has_not(gateway: Gateway, tells: Tells) -> None:
    session_id = await gateway.add_session()
    async with listening(gateway, live(session_id)) as witness:
        await witness.expect("session")
        for index in range(3):
            await tells.delta(session_id, index, f"{index} ")
        heard = [await witness.expect("delta") for _ in range(3)]
        async with listening(gateway, live(session_id)) as late:
            await late.expect("session")
            assert [shown(await late.expect("delta")) for _ in range(3)] == [shown(event) for event in heard]
        await tells.delta(session_id, 3, "3 ")
        await witness.expect("delta")
        async with listening(gateway, live(session_id), known=heard[1].id) as again:
            assert [shown(await again.expect("delta"))[1] for _ in range(2)] == [2, 3]
            await tells.delta(session_id, 4, "4 ")
            assert shown(await again.expect("delta"))[1] == 4
            known = again.last_id
        await gateway.execute(update(chat_sessions).where(chat_sessions.c.session_id == session_id).values(version=5))
        async with listening(gateway, live(session_id), known=known) as again:
            assert (await again.expect("session")).data["version"] == 5
            await tells.delta(session_id, 5, "5 ")
            assert shown(await again.expect("delta"))[1] == 5


async def test_pieces_are_told_on_by_a_gateway_that_started_later(
    broker: str, module_postgres_url: str, gateway: Gateway, tells: Tells
) -> None:
    session_id = await gateway.add_session()
    await tells.delta(session_id, 0, "before ")
    async with (
        live_gateway(broker, module_postgres_url) as another,
        listening(another, live(session_id)) as late,
    ):
        await late.expect("session")
        assert shown(await late.expect("delta")) == (1, 0, "before ")


async def test_nobody_watches_anothers_session(gateway: Gateway, tells: Tells) -> None:
    session_id = await gateway.add_session()
    for headers, path in [(BOB, live(session_id)), (ADA, live(new_id())), (ADA, "/api/chat-sessions/x/live")]:
        answer = await gateway.get(path, headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-session"), path
    async with listening(gateway, live(session_id), headers=ROOT) as root:
        assert (await root.expect("session")).data["userId"] == "ada"
        # Only what is of the session's own user is told.
        await tells.delta(session_id, 0, "forged", user="bob")
        await tells.change(session_id, version=2, user_id="bob")
        await tells.delta(session_id, 0, "real")
        assert shown(await root.expect("delta")) == (1, 0, "real")


async def test_lists_are_told_no_pieces(gateway: Gateway, tells: Tells) -> None:
    session_id = await gateway.add_session()
    async with listening_to_list(gateway) as ada, listening_to_list(gateway, headers=ROOT, userId="*") as root:
        await tells.delta(session_id, 0, "a piece")
        await tells.change(session_id, version=2)
        assert (await ada.sessions(1), await root.sessions(1)) == ([str(session_id)], [str(session_id)])


async def test_a_wrong_last_event_id_is_refused(gateway: Gateway) -> None:
    session_id = await gateway.add_session()
    for text in ("", "nonsense", "AXhQrAJjKQdYggE", "Ag", "AgEAAA"):
        answer = await gateway.get(live(session_id), {**ADA, "last-event-id": text})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    head = await gateway.http.head(live(session_id), headers=ADA)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert (await gateway.get(live(session_id), wait=1)).status_code == 400
