"""A rolling upgrade under load, a step back, and forward again: nothing accepted is lost, refused or told twice.

The earlier code runs with the libraries that are installed now. `make test-upgrade` prints what happened.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from services.contracts.topics import CONTROL, TRACKER_GROUP
from services.local.persona_seeds import seed_personas, wanted_personas
from services.local.reaper import Reaper
from services.runtime.dead_letter_tools import read_dead_letters
from services.runtime.tokens import mint_token
from tests.cluster.ledger import close_ledger
from tests.cluster.load import steady_load
from tests.cluster.watch import watching
from tests.integration.kafka_log import read_all, settings_for
from tests.integration.tracker_process import connected, offsets, until, until_value
from tests.upgrade.leaving import CONVERSATIONS, Leaver
from tests.upgrade.reading import steady_reads
from tests.upgrade.releases import Release
from tests.upgrade.system import PROCESSES, System, kind_of

pytestmark = pytest.mark.timeout(180)

PER_SECOND = 60.0
QUIET_SECONDS = 2.0
"""Load before and after what happens, and while the releases are mixed."""
STEPPED_BACK = ("gateway-2", "dispatcher-2", "tracker-2")
"""In the opposite order: whoever writes an event before whoever reads it."""
STOP_TRACKERS = {"0002", "0003", "0011"}
"""The migrations with which trackers from before cannot live: they stop before it comes, and do not step back."""
NO_WAY_BACK = {"0002", "0003"}
"""The migrations after which nothing steps back."""
UNKNOWN_TO_OLDER = {"unsupported", "unknown-type"}
"""Why a release dead-letters an event that only a later one knows."""


@asynccontextmanager
async def running(
    environment: Mapping[str, str], release: Release, logs: Path, reaper: Reaper
) -> AsyncIterator[System]:
    """The whole system of one release; at the end of the block it stops in order."""
    async with watching({}) as watch:
        system = System(environment, logs, reaper, watch)
        await system.migrate(release)
        for name in PROCESSES:
            system.start(name, release)
        try:
            await asyncio.gather(*(system.until_ready(name, 0) for name in PROCESSES))
            yield system
            await watch.until_calm()
            await system.close()
        finally:
            print(watch.story(), flush=True)


async def test_a_rolling_upgrade_a_step_back_and_forward_again(
    older: Release, newer: Release, environment: Mapping[str, str], n8n_url: str, tmp_path: Path, reaper: Reaper
) -> None:
    print(f"\nFrom {older}\n  to {newer}")
    database_url, token = environment["DATABASE_URL"], partial(new_token, environment["JWT_SECRET"])
    async with running(environment, older, tmp_path, reaper) as system:
        await give_personas(system, n8n_url, token)
        leaver = Leaver(token("leaver"), token("root", admin=True))
        async with (
            steady_load(system.gateways, token("alice"), PER_SECOND) as load,
            steady_reads(system.gateways, token("alice"), load) as answers,
        ):
            await asyncio.sleep(QUIET_SECONDS)
            brought = newer.migrations - older.migrations
            await upgrade(system, newer, stopped_first(brought))
            await leaver.send(system.url("gateway-1"))
            for name in stepped_back(brought):
                await system.replace(name, older)
            erasure = await leaver.leave(system.url("gateway-1"))
            await asyncio.sleep(QUIET_SECONDS)
            for name in reversed(stepped_back(brought)):
                await system.replace(name, newer)
            await asyncio.sleep(QUIET_SECONDS)
        ledger = await close_ledger({"databaseUrl": database_url, "n8nUrl": n8n_url}, load)
        receipt = await leaver.until_left(system.url("gateway-1"), erasure)
        print(f"{ledger}\n  reads                     {dict(sorted(answers.items()))}", flush=True)
        ledger.assert_nothing_went_wrong()
        assert (receipt["sessions"], receipt["conversations"]) == (CONVERSATIONS, CONVERSATIONS)
        await check_dead_letters(system, newer)
        await check_sweeps(database_url)


async def upgrade(system: System, newer: Release, stopped: Sequence[str]) -> None:
    """Stop these, migrate, then replace one process after the other."""
    for name in stopped:
        await system.stop(name)
    await system.migrate(newer)
    await asyncio.sleep(QUIET_SECONDS)
    for name in PROCESSES:
        await system.replace(name, newer)


def stopped_first(brought: Set[str]) -> Sequence[str]:
    """Return the processes that stop before these migrations."""
    return [name for name in PROCESSES if kind_of(name) == "tracker"] if brought & STOP_TRACKERS else []


def stepped_back(brought: Set[str]) -> Sequence[str]:
    """Return the processes that step back after these migrations."""
    stopped = stopped_first(brought)
    return [] if brought & NO_WAY_BACK else [name for name in STEPPED_BACK if name not in stopped]


def new_token(secret: str, user: str, *, admin: bool = False) -> str:
    return mint_token(user, secret, admin=admin, now=datetime.now(UTC), lifetime=timedelta(hours=1))


async def give_personas(system: System, n8n_url: str, token: Callable[..., str]) -> None:
    await asyncio.to_thread(
        seed_personas,
        system.gateways()[0],
        wanted_personas(n8n_url, ("echo", "uneven"), {}),
        {},
        lambda user: token(user, admin=True),
    )


async def check_dead_letters(system: System, newer: Release) -> None:
    """Only events that the older release does not know are there, and the newer one can use each of them."""
    bootstrap = system.environment["KAFKA_BOOTSTRAP_SERVERS"]
    settings = settings_for(bootstrap)
    letters = await read_dead_letters(settings)
    kinds = Counter((dict(letter.headers)["ce_type"], letter.reason) for letter in letters)
    print(f"  dead letters              {dict(kinds)}", flush=True)
    assert {reason for _, reason in kinds} <= UNKNOWN_TO_OLDER
    assert {kind for kind, _ in kinds} <= {b"chat.ErasureRequested.v1"}
    if letters:
        await system.run(newer, "dead-letters", "replay", "--all")
    await until_read(bootstrap, CONTROL.name)
    assert len(await read_dead_letters(settings)) == len(letters)


async def until_read(bootstrap: str, topic: str) -> None:
    """Return once the trackers have committed all that a topic holds."""
    ends = Counter(TopicPartition(topic, record.partition) for record in await read_all(bootstrap, topic))

    async def there() -> bool:
        return await offsets(bootstrap, TRACKER_GROUP, list(ends)) == ends

    await until(there, f"the trackers had read {topic} to its end")


async def check_sweeps(database_url: str) -> None:
    """Sweeps went on all the time, each to its end, and timed nothing out."""
    await until_value(database_url, 'SELECT count(*) FROM sweeps WHERE "finishedAt" IS NULL', 0)
    async with connected(database_url) as rows:
        count, timed_out, failed = await rows.fetchrow(
            'SELECT count(*), sum("timedOut"), sum("failedChunks") FROM sweeps'
        )
    print(f"  sweeps                    {count}", flush=True)
    assert count >= 5
    assert (timed_out, failed) == (0, 0)
