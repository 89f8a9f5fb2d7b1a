"""What became of a load: from PostgreSQL and from the stub n8n's own ledger, against what was accepted."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from services.database.engine import asyncpg_url
from tests.cluster.load import Accepted, Load
from tests.recount import assert_rollups_exact

ENDINGS = ("WebhookSucceeded", "WebhookFailed", "CancelRequested", "TimeoutSweep")
END_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts of sessions, but for `worst_acknowledgement`, which is in seconds."""

    accepted: int
    repeated_requests: dict[str, int]
    tracked: int
    ended_once: int
    statuses: dict[str, int]
    late_endings: int
    called: int
    reordered: int
    calls_beyond_the_first: int
    worst_acknowledgement: float

    def __str__(self) -> str:
        told = {
            "accepted": self.accepted,
            "lost": self.accepted - self.tracked,
            "ended once": self.ended_once,
            "statuses": self.statuses,
            "duplicates (late endings)": self.late_endings,
            "never called": self.accepted - self.called,
            "reordered": self.reordered,
            "calls beyond the first": self.calls_beyond_the_first,
            "worst acknowledgement": f"{self.worst_acknowledgement:.1f} s",
            "requests repeated": self.repeated_requests,
        }
        return "\n".join(f"  {name:<26}{value}" for name, value in told.items())

    def assert_nothing_went_wrong(self) -> None:
        """Nothing lost, everything answered and ended once, in order."""
        assert self.tracked == self.ended_once == self.called == self.accepted
        assert self.statuses == {"COMPLETED": self.accepted}
        assert self.reordered == 0
        # Every call may end its session, and only the first of these counts.
        assert self.late_endings <= self.calls_beyond_the_first


async def close_ledger(stack: Mapping[str, Any], load: Load) -> Ledger:
    """Wait until every accepted session has ended, and count; the rollups must be exact by then."""
    ids = [message.session_id for message in load.accepted]
    assert len(set(ids)) == len(ids), "Two messages were accepted as one session."
    database = await asyncpg.connect(asyncpg_url(stack["databaseUrl"]))
    try:
        await _until_ended(database, ids)
        statuses = Counter(
            row["status"]
            for row in await database.fetch('SELECT status FROM chat_sessions WHERE "sessionId" = ANY($1)', ids)
        )
        endings, late = await _endings(database, ids)
    finally:
        await database.close()
    await assert_rollups_exact(stack["databaseUrl"])
    called, reordered, beyond = await _calls(stack["n8nUrl"], load.conversations)
    return Ledger(
        accepted=len(ids),
        repeated_requests=dict(load.refusals),
        tracked=statuses.total(),
        ended_once=sum(endings[session_id] == 1 for session_id in ids),
        statuses=dict(statuses),
        late_endings=late,
        called=called,
        reordered=reordered,
        calls_beyond_the_first=beyond,
        worst_acknowledgement=max(message.seconds for message in load.accepted),
    )


async def _until_ended(database: asyncpg.Connection, ids: list[str]) -> None:
    """Return when all have ended, or when that takes so long that the ledger had better tell what is missing."""
    count = "SELECT count(*) FROM chat_sessions WHERE status <> 'ACTIVE' AND \"sessionId\" = ANY($1)"
    give_up = asyncio.get_running_loop().time() + END_SECONDS
    while await database.fetchval(count, ids) < len(ids) and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(0.2)


async def _endings(database: asyncpg.Connection, ids: list[str]) -> tuple[Counter[str], int]:
    """How often each session ended, and how many endings came late."""
    query = 'SELECT "sessionId", late FROM session_events WHERE type = ANY($1) AND "sessionId" = ANY($2)'
    endings: Counter[str] = Counter()
    late = 0
    for row in await database.fetch(query, ENDINGS, ids):
        endings[str(row["sessionId"])] += not row["late"]
        late += row["late"]
    return endings, late


async def _calls(n8n_url: str, conversations: Mapping[str, list[Accepted]]) -> tuple[int, int, int]:
    """How many sessions were called; how many of them before one that was sent earlier; and calls beyond the first."""
    called = reordered = beyond = 0
    async with httpx.AsyncClient(base_url=n8n_url, timeout=10, trust_env=False) as n8n:
        for name, messages in conversations.items():
            found = {c["sessionId"]: c for c in (await n8n.get("/calls", params={"conversationId": name})).json()}
            latest = 0
            for arrivals in (found[m.session_id]["arrivals"] for m in messages if m.session_id in found):
                called += 1
                beyond += len(arrivals) - 1
                reordered += arrivals[0] < latest
                latest = max(latest, arrivals[0])
    return called, reordered, beyond
